"""Holds a command and everything it starts: `python leash.py STATUS_FD '{"command": [...], "after": [...], "scratch": ""}'`.

Its standard input is the leash. `term` is passed on to the command's process group; at `kill`, or when the other end is gone
(a worker that was killed), all that the command has started is killed, also what has left the group or became a daemon. Then
`after` is run, the job's folder `scratch` is removed if nobody is left who could, and {"returncode": n} is written to
STATUS_FD, or {"error": why} if there was nothing to start. The standard library alone: it is started with an environment that
knows nothing of Reflux.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    status, order = int(sys.argv[1]), json.loads(sys.argv[2])
    os.set_inheritable(status, False)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the worker says when; unlike SIG_IGN, this is not the command's too
    alone = threading.Event()
    try:
        process = subprocess.Popen(order["command"], stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        told = {"error": f"{error.strerror or error}: {order['command'][0]}", "errno": error.errno}
    else:
        threading.Thread(target=obey, args=(process, alone), daemon=True).start()
        told = {"returncode": process.wait()}
        kill_all()
    if order.get("after"):
        subprocess.run(
            order["after"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    if alone.is_set():
        shutil.rmtree(order["scratch"], ignore_errors=True)
    with suppress(BrokenPipeError):
        os.write(status, json.dumps(told).encode())


def obey(process: subprocess.Popen[bytes], alone: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "kill":
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        alone.set()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def kill_all() -> None:
    """Kill what is left. A child's own children become ours when it dies, so that the last round finds none."""
    while children := direct_children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def direct_children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                if int(parent) == os.getpid():
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
