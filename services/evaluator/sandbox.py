"""The worker's side of the sandbox: jails that wait, and one call that runs a command in one of them."""

import atexit
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from services.evaluator import jail

Result = TypeVar("Result")
SYSTEM_PATHS = (
    *("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include"),
    *("/bin", "/lib", "/lib64", "/etc/ld.so.cache"),
)
ADVICE = {
    "namespaces": "allow user namespaces to the evaluator (or run it as root in its container), or accept Landlock alone",
    "landlock": "use a kernel of 5.13 or later with Landlock enabled (lsm=landlock,…)",
    "user": "let the evaluator's container keep CAP_SETUID and CAP_SETGID, or run it as a plain user",
    "seccomp": "run the evaluator on x86_64 or aarch64",
    "rlimits": "run the evaluator on Linux",
}


@dataclass(frozen=True)
class Limits:
    cpu_seconds: int = 4
    wall_seconds: float = 8.0
    memory_mb: int = 768
    output_bytes: int = 256 * 1024
    file_mb: int = 0
    processes: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `status` is its exit code, negative a signal; `killed` why it had to be ended, if it had."""

    status: int
    killed: Literal["", "time", "output", "jail"]
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float
    peak_kb: int


class Sandbox:
    """Runs commands that see nothing but `SYSTEM_PATHS` and `paths`, read-only, and may write only below `writable`.

    Safe to call from several threads: each call takes a waiting jail, or starts one.
    """

    def __init__(self, paths: tuple[str, ...] = (), writable: tuple[str, ...] = ()) -> None:
        self.paths = [path for path in (*SYSTEM_PATHS, *paths) if os.path.exists(path)]
        self.writable = list(writable)
        self._root = tempfile.mkdtemp(prefix="reflux-jail-")
        self._waiting: list[_Jail] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self.layers = self._with_jail(lambda one: one.layers)
        atexit.register(self.close)

    @property
    def missing(self) -> dict[str, str]:
        """The layers that this machine refused, each with why."""
        return {layer: why for layer, why in self.layers.items() if why}

    def run(self, argv: list[str], stdin: bytes = b"", limits: Limits | None = None, folder: str = "") -> Outcome:
        """Run argv[0] (a full path), with an empty environment, in `folder` (else in /)."""
        job = {"argv": argv, "folder": folder, **asdict(limits or Limits())}
        for _ in range(2):
            try:
                return self._with_jail(lambda one: one.run(job, stdin))
            except (EOFError, OSError):
                self._drop_waiting()  # the jail was killed from outside, perhaps others too: a fresh one gets the job, once
        return Outcome(-9, "jail", b"", b"", 0.0, 0.0, 0)

    def close(self) -> None:
        if self._owner == os.getpid():
            self._drop_waiting()
            shutil.rmtree(self._root, ignore_errors=True)
        atexit.unregister(self.close)

    def _drop_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.close()

    def _with_jail(self, work: Callable[["_Jail"], Result]) -> Result:
        one = self._take()
        try:
            result = work(one)
        except BaseException:
            one.close()
            raise
        with self._lock:
            self._waiting.append(one)
        return result

    def _take(self) -> "_Jail":
        with self._lock:
            if self._owner != os.getpid():  # after a fork the jails belong to the parent
                self._owner, self._waiting, self._root = os.getpid(), [], tempfile.mkdtemp(prefix="reflux-jail-")
            if self._waiting:
                return self._waiting.pop()
        return _Jail(self.paths, self.writable, self._root)


class _Jail:
    """One jail process and our end of its socket."""

    def __init__(self, paths: list[str], writable: list[str], root: str) -> None:
        ours, theirs = socket.socketpair()
        config = json.dumps({"paths": paths, "writable": writable, "root": root})
        command = [sys.executable, "-I", "-S", "-X", "utf8", str(Path(jail.__file__)), config]
        self.process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True
        )
        theirs.close()
        self.socket = ours
        try:
            header, _ = jail.receive(ours)
        except EOFError as error:
            raise OSError(f"the sandbox's process did not start; status {self.process.wait()}, its log is on stderr") from error
        self.layers: dict[str, str] = header["layers"]

    def run(self, job: dict[str, object], stdin: bytes) -> Outcome:
        text = json.dumps({**job, "sizes": [len(stdin)]}).encode()
        self.socket.sendall(struct.pack(">I", len(text)) + text + stdin)
        header, (out, err) = jail.receive(self.socket)
        header.pop("sizes")
        return Outcome(stdout=out, stderr=err, **header)

    def close(self) -> None:
        self.socket.close()
        self.process.wait()
