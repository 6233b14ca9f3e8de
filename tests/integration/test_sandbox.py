"""The sandbox itself: what a command in it can see, do, and cost."""

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.evaluator import jail
from services.evaluator.sandbox import ADVICE, Limits, Outcome, Sandbox

SHELL = Limits(cpu_seconds=2, wall_seconds=10.0, memory_mb=256, processes=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def shell(sandbox: Sandbox, script: str, limits: Limits = SHELL) -> Outcome:
    return sandbox.run(["/bin/sh", "-c", script], b"", limits)


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return true()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def test_each_layer_holds_or_says_why_not(sandbox: Sandbox) -> None:
    assert set(sandbox.layers) == set(ADVICE)
    assert sandbox.missing == {layer: why for layer, why in sandbox.layers.items() if why}
    if not (sandbox.layers["landlock"] and sandbox.layers["namespaces"]):
        return
    pytest.fail(f"nothing on this machine keeps the compiler from its files: {sandbox.missing}")


def test_only_the_given_paths_are_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    outcome = shell(
        sandbox, f"cat {tmp_path}/secret /etc/passwd /proc/self/environ; ls /root /home /proc /sys; cat /usr/include/stdint.h"
    )
    assert b"secret\n" not in outcome.stdout
    assert b"root:" not in outcome.stdout
    assert b"PATH" not in outcome.stdout
    assert b"SIZE_WIDTH" in outcome.stdout, "the system's headers are there"


def test_nothing_can_be_written(sandbox: Sandbox) -> None:
    places = "/ /tmp /var/tmp /dev/shm /usr /usr/include /run /root /etc ."
    outcome = shell(sandbox, f"for p in {places}; do echo x > $p/reflux-was-here && echo wrote $p; done; echo done")
    assert outcome.stdout == b"done\n"


def test_a_writable_folder_is_the_only_one(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o777)
    sandbox = Sandbox(writable=(str(tmp_path),))
    limits = Limits(processes=True, file_mb=1)
    outside = Path(f"/tmp/reflux-{secrets.token_hex(8)}")
    outcome = shell(
        sandbox,
        f"echo yes > {tmp_path}/a; echo no > {outside}; head -c 3000000 /dev/zero > {tmp_path}/big; ls {tmp_path}",
        limits,
    )
    sandbox.close()
    assert (tmp_path / "a").read_text() == "yes\n"
    assert not outside.exists()
    assert not (tmp_path / "big").exists() or (tmp_path / "big").stat().st_size <= 1 << 20
    assert outcome.stderr


def test_the_environment_is_empty_and_the_user_owns_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_WORKER_KEY", "very-secret")
    fresh = Sandbox()
    outcome = shell(fresh, "/usr/bin/env; /usr/bin/id -u; pwd")
    fresh.close()
    *environment, user, folder = outcome.stdout.decode().split()
    assert sorted(line.split("=")[0] for line in environment) == ["LC_ALL", "PATH", "PWD"]
    assert int(user) != 0
    assert folder == "/"


def test_there_is_no_network(sandbox: Sandbox) -> None:
    for kind in ("AF_INET, SOCK_STREAM", "AF_INET, SOCK_DGRAM", "AF_UNIX, SOCK_STREAM", "AF_NETLINK, SOCK_RAW"):
        outcome = sandbox.run(
            ["/usr/bin/perl", "-MSocket", "-e", f'socket(my $s, {kind.replace("AF_NETLINK", "16")}, 0) and print "open"'],
            b"",
            SHELL,
        )
        assert outcome.stdout == b"", kind


def test_one_process_stays_one(sandbox: Sandbox) -> None:
    outcome = shell(sandbox, "/bin/ls / ; echo still here", Limits(processes=False))
    assert b"usr" not in outcome.stdout
    assert b"fork" in outcome.stderr


def test_a_fork_bomb_ends(sandbox: Sandbox) -> None:
    outcome = shell(sandbox, "f() { f | f & }; f; sleep 30", Limits(processes=True, wall_seconds=1.0))
    assert outcome.killed in ("time", "output")
    assert shell(sandbox, "echo well").stdout == b"well\n"


def test_time_output_and_memory_are_limited(sandbox: Sandbox) -> None:
    assert shell(sandbox, "while :; do :; done", Limits(cpu_seconds=1)).killed == "time"
    assert shell(sandbox, "sleep 60", Limits(wall_seconds=0.3, processes=True)).killed == "time"
    flood = shell(sandbox, "yes", Limits(output_bytes=10_000, processes=True))
    assert flood.killed == "output"
    assert len(flood.stdout) <= 10_000
    hungry = sandbox.run(["/usr/bin/perl", "-e", "$x = 'a' x (1 << 30); print length $x"], b"", Limits(memory_mb=128))
    assert hungry.stdout == b""
    assert hungry.peak_kb < 128 * 1024


def test_the_whole_process_group_is_killed(sandbox: Sandbox) -> None:
    mark = f"{os.getpid() % 997 + 100}.{time.time_ns() % 10**6}"
    shell(sandbox, f"sleep {mark} & sleep {mark} & sleep {mark}", Limits(wall_seconds=0.5, processes=True))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert mark not in listed


def test_standard_input_of_any_size_arrives(sandbox: Sandbox) -> None:
    data = os.urandom(3_000_000)
    assert sandbox.run(["/usr/bin/wc", "-c"], data).stdout.split() == [b"3000000"]
    assert sandbox.run(["/bin/true"], data).status == 0, "a command need not read it"


def test_a_command_that_is_not_there(sandbox: Sandbox) -> None:
    outcome = sandbox.run(["/usr/bin/no-such-compiler"])
    assert outcome.status == 127
    assert b"No such file" in outcome.stderr


def test_many_threads_share_it(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda n: shell(sandbox, f"echo {n}").stdout, range(40)))
    assert outcomes == [f"{n}\n".encode() for n in range(40)]


def test_a_killed_jail_is_replaced(sandbox: Sandbox) -> None:
    shell(sandbox, "true")
    for process in _jails_of(os.getpid()):
        os.kill(process, signal.SIGKILL)
    assert shell(sandbox, "echo again").stdout == b"again\n"


def test_jails_end_with_their_worker() -> None:
    """Even when the worker is killed while a command runs."""
    script = """
        import threading, time
        from services.evaluator.sandbox import Limits, Sandbox
        sandbox = Sandbox()
        run = lambda: sandbox.run(["/bin/sleep", "300"], b"", Limits(wall_seconds=300.0))
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.3)
        print("ready", flush=True)
        time.sleep(300)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(jail.__file__).parents[2]) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"ready\n"
        family = [pid for one in _jails_of(worker.pid) for pid in (one, *_children_of(one))]
        worker.kill()
        worker.wait()
    assert len(family) == 2
    assert until(lambda: not any(alive(pid) for pid in family))


def test_a_forked_worker_takes_jails_of_its_own(sandbox: Sandbox) -> None:
    shell(sandbox, "true")
    child = os.fork()
    if child == 0:
        os._exit(0 if shell(sandbox, "echo child").stdout == b"child\n" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shell(sandbox, "echo parent").stdout == b"parent\n"


@pytest.mark.skipif(os.getuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs root and the system's own Python")
def test_a_plain_user_is_confined_too(tmp_path: Path) -> None:
    """The jail, started by a user without rights: by namespaces of its own, or by Landlock alone."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o777)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "jail.py").write_text(Path(jail.__file__).read_text())
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o777)
    script = f"""
        import json, os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        import jail
        paths = [p for p in ("/usr/bin", "/usr/lib", "/lib", "/lib64", "/bin") if os.path.exists(p)]
        layers = jail.lock_in(paths, [], {str(tmp_path / "root")!r})
        def refused(path, flags):
            try:
                os.open(path, flags)
            except OSError:
                return True
            return False
        print(json.dumps([layers, refused({str(tmp_path / "secret")!r}, os.O_RDONLY), refused("/etc/passwd", os.O_RDONLY)]))
    """
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", textwrap.dedent(script)],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    layers, secret, passwd = json.loads(done.stdout)
    assert not (layers["landlock"] and layers["namespaces"]), layers
    assert (secret, passwd) == (True, True)


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs the system's own Python")
def test_landlock_alone_confines_where_namespaces_are_refused(tmp_path: Path) -> None:
    """A jail within the jail: the outer one's filter refuses namespaces, as a container's does."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "jail.py").write_text(Path(jail.__file__).read_text())
    script = f"""
        import json, os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        import jail
        print(open({str(tmp_path / "secret")!r}).read())
        print(json.dumps(jail.lock_in(["/usr/lib", "/lib"], [], "/")))
        os.open("/usr/lib", os.O_RDONLY)
        for path in ({str(tmp_path / "secret")!r}, "/usr/include/stdint.h"):
            try:
                print(open(path).read())
            except PermissionError:
                print("refused")
    """
    outer = Sandbox((str(tmp_path),))
    if outer.layers["seccomp"] or outer.layers["landlock"]:
        outer.close()
        pytest.skip(f"this machine lacks a layer: {outer.missing}")
    outcome = outer.run(["/usr/bin/python3", "-I", "-B", "-c", textwrap.dedent(script)], b"", SHELL)
    outer.close()
    before, layers, *after = outcome.stdout.decode().splitlines()
    assert before == "secret"
    assert "not permitted" in json.loads(layers)["namespaces"]
    assert json.loads(layers)["landlock"] == ""
    assert after == ["refused", "refused"], outcome.stderr


def _jails_of(pid: int) -> list[int]:
    return [child for child in _children_of(pid) if b"jail.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _children_of(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return children
