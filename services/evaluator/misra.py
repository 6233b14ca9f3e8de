"""MISRA C:2012 by cppcheck and its addon, as Debian packages them. Optional: it finds, the rubric's own numbers decide."""

import json
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from services.evaluator import jail
from services.evaluator.sandbox import Limits, Sandbox

_LIMITS = Limits(cpu_seconds=10, wall_seconds=20.0, memory_mb=1024, file_mb=32, output_bytes=1 << 20)
_ADDONS = ("/usr/lib/*/cppcheck/addons/misra.py", "/usr/share/cppcheck/addons/misra.py", "/usr/lib/cppcheck/addons/misra.py")


@dataclass(frozen=True)
class Violation:
    """`rule` as MISRA counts it, such as 15.1."""

    rule: str
    line: int
    column: int


class Misra:
    """cppcheck's misra addon over untrusted text, in a sandbox of its own whose only writable folder is thrown away."""

    def __init__(self) -> None:
        self.cppcheck, self.python, self.addon = shutil.which("cppcheck"), shutil.which("python3", path="/usr/bin"), _addon()
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._base = ""

    @property
    def lacking(self) -> str:
        """What is not installed, or ""."""
        missing = {"cppcheck": self.cppcheck, "/usr/bin/python3": self.python, "cppcheck's addon misra.py": self.addon}
        return ", ".join(name for name, path in missing.items() if not path)

    def check(self, text: str) -> tuple[list[Violation], str]:
        """The violations in order of lines, and why there may be more ("" where the tool came to its end)."""
        sandbox = self._ready()
        folder = Path(tempfile.mkdtemp(dir=self._base))
        try:
            file = folder / "answer.c"
            file.write_text(text, errors="replace")
            if os.getuid() == 0:
                for path in (folder, file):
                    os.chown(path, jail.UNPRIVILEGED, jail.UNPRIVILEGED)
            dumping = [str(self.cppcheck), "-q", "--dump", "--std=c11", "--max-configs=1", "answer.c"]
            dumped = sandbox.run(dumping, b"", _LIMITS, str(folder))
            looking = [str(self.python), "-B", "-E", "-s", str(self.addon), "--cli", "answer.c.dump"]
            outcome = dumped if dumped.killed or dumped.status else sandbox.run(looking, b"", _LIMITS, str(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        broke_off = "cppcheck came to no end within its limits" if outcome.killed or outcome.status < 0 else ""
        return _violations(outcome.stdout.decode(errors="replace")), broke_off

    def close(self) -> None:
        if self._sandbox:
            self._sandbox.close()
            shutil.rmtree(self._base, ignore_errors=True)
            self._sandbox = None

    def _ready(self) -> Sandbox:
        with self._lock:
            if self._sandbox is None:
                self._base = tempfile.mkdtemp(prefix="reflux-misra-")
                os.chmod(self._base, 0o711)  # noqa: S103 the jail's user passes through
                self._sandbox = Sandbox(writable=(self._base,))
            return self._sandbox


def _addon() -> str:
    return next((str(path) for pattern in _ADDONS for path in Path("/").glob(pattern.lstrip("/"))), "")


def _violations(output: str) -> list[Violation]:
    found = set[tuple[int, int, str]]()
    for line in output.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the addon also says what it is doing
        if isinstance(row, dict) and str(row.get("errorId", "")).startswith("c2012-"):
            found.add((int(row["linenr"]), int(row["column"]) + 1, row["errorId"].removeprefix("c2012-")))
    return [Violation(rule, line, column) for line, column, rule in sorted(found)]
