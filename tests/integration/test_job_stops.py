"""Jobs that are stopped, killed, lost or silent."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reflux.errors import RefluxError, Retriable, Stopped
from reflux.task import Task
from services.gpu_trainer import job
from tests.integration.by_hand import eventually
from tests.integration.jobs import failing, phases, task
from tests.unit.test_operations import ROOT

pytestmark = pytest.mark.usefixtures("jobs_allowed")


@pytest.fixture
def in_background() -> Iterator[Callable[[Task], "Outcome"]]:
    begun: list[Outcome] = []

    def begin(hand: Task) -> Outcome:
        begun.append(Outcome(hand))
        return begun[-1]

    yield begin
    for outcome in begun:
        outcome.hand.stop, outcome.hand.kill = outcome.hand.stop or "abort", True
        outcome.thread.join(30)


class Outcome:
    """A job that runs in a thread, as in a worker."""

    def __init__(self, hand: Task) -> None:
        self.hand = hand
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            job.run_job(self.hand)
        except (RefluxError, Stopped) as error:
            self.raised = error

    def ended(self) -> BaseException | None:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.raised


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is not a dead one that nobody has looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(folder: Path, count: int) -> list[int]:
    def written() -> list[int]:
        found = [int(text) for path in folder.glob("pid-*") if (text := path.read_text().strip())]
        return found if len(found) == count else []

    return eventually(written, 20, "the command did not start")


GENTLE = """
    import os, signal, sys, time
    def stop(*_):
        open(os.environ["REFLUX_CHECKPOINTS"] + "/state.txt", "w").write("step 5")
        open(os.environ["REFLUX_OUTPUTS"] + "/half.txt", "w").write("half")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    checkpoint = os.environ["REFLUX_CHECKPOINTS"] + "/state.txt"
    if os.path.exists(checkpoint):
        open(os.environ["REFLUX_OUTPUTS"] + "/whole.txt", "w").write(open(checkpoint).read())
        sys.exit(0)
    open("{folder}/pid-1", "w").write(str(os.getpid()))
    time.sleep(60)
"""


def test_a_stop_is_sigterm_and_the_next_attempt_has_the_checkpoint(tmp_path: Path, in_background: Any) -> None:
    script = GENTLE.replace("{folder}", str(tmp_path))
    first = in_background(task(tmp_path, script))
    pids(tmp_path, 1)
    first.hand.stop = "pause"
    stopped = first.ended()
    assert isinstance(stopped, Stopped)
    assert stopped.why == "pause"
    assert first.hand.artifacts.get("runs/r1/pieces/run_job/checkpoints/state.txt") == b"step 5"
    assert not first.hand.artifacts.paths("runs/r1/partial"), "it is to go on"
    second = task(tmp_path, script, attempt=2)
    assert second.artifacts.get(f"{job.run_job(second).outputs_path}/whole.txt") == b"step 5"


def test_at_the_limit_of_time_unfinished_outputs_are_kept(tmp_path: Path, in_background: Any) -> None:
    begun = in_background(task(tmp_path, GENTLE.replace("{folder}", str(tmp_path))))
    pids(tmp_path, 1)
    begun.hand.stop = "limit"
    assert isinstance(begun.ended(), Stopped)
    assert begun.hand.artifacts.get("runs/r1/partial/attempt-1/half.txt") == b"half"
    assert phases(begun.hand)["training"] == "stopped"


def test_a_command_that_knows_nothing_of_signals_ends_at_once(tmp_path: Path, in_background: Any) -> None:
    begun = in_background(
        task(tmp_path, "pass", command=["sh", "-c", f"echo $$ > {tmp_path}/pid-1; exec sleep 60"], stop_seconds=600)
    )
    pids(tmp_path, 1)
    begun.hand.stop = "abort"
    assert isinstance(begun.ended(), Stopped)


STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("{folder}/pid-1", "w").write(str(os.getpid()))
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:  # a daemon, which no process group holds
            open("{folder}/pid-2", "w").write(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_what_does_not_stop_is_killed_with_all_that_it_started(tmp_path: Path, scratch: Path, in_background: Any) -> None:
    begun = in_background(task(tmp_path, STUBBORN.replace("{folder}", str(tmp_path)), stop_seconds=0.5))
    processes = pids(tmp_path, 2)
    assert all(map(alive, processes))
    begun.hand.stop = "abort"
    assert isinstance(begun.ended(), Stopped)
    assert not any(map(alive, processes))
    assert list(scratch.iterdir()) == []


def test_a_kill_does_not_wait(tmp_path: Path, in_background: Any) -> None:
    begun = in_background(task(tmp_path, STUBBORN.replace("{folder}", str(tmp_path)), stop_seconds=600))
    processes = pids(tmp_path, 2)
    begun.hand.stop, begun.hand.kill = "abort", True
    assert isinstance(begun.ended(), Stopped)
    assert not any(map(alive, processes))


def test_a_daemon_left_behind_ends_with_its_command(tmp_path: Path) -> None:
    script = STUBBORN.replace("{folder}", str(tmp_path)).rstrip().removesuffix("time.sleep(60)")
    daemon = f"{tmp_path}/pid-2"
    script += f"while not (os.path.exists({daemon!r}) and os.path.getsize({daemon!r})): time.sleep(0.02)\n"
    script += "    open(os.environ['REFLUX_OUTPUTS'] + '/x', 'w').write('x')\n"
    job.run_job(task(tmp_path, script))
    assert not any(map(alive, pids(tmp_path, 2)))


def test_a_command_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """The worker is a process of its own here; SIGKILL leaves it no time to say anything."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(textwrap.dedent(STUBBORN.replace("{folder}", str(tmp_path))))
    code = f"""
        from pathlib import Path
        from services.gpu_trainer import job
        from tests.integration.jobs import task
        job.run_job(task(Path("{tmp_path}")))
    """
    (tmp_path / "scratch").mkdir()
    env = os.environ | {"REFLUX_JOBS": "1", "TMPDIR": str(tmp_path / "scratch")}
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=env)
    processes = pids(tmp_path, 2)
    assert list((tmp_path / "scratch").iterdir())
    worker.kill()
    worker.wait()
    eventually(lambda: not any(map(alive, processes)), 20, "the command outlived its worker")
    eventually(lambda: not list((tmp_path / "scratch").iterdir()), 20, "its folder outlived it")


def test_silence_without_work_is_a_stall_and_work_is_none(tmp_path: Path) -> None:
    idle = task(tmp_path, "import time; time.sleep(60)", limits={"stall_seconds": 1.5})
    error = failing(idle)
    assert isinstance(error, Retriable)
    assert error.code == "stalled"
    busy = """
        import os, time
        until = time.process_time() + 3
        while time.process_time() < until: pass
        open(os.environ["REFLUX_OUTPUTS"] + "/x", "w").write("x")
    """
    assert job.run_job(task(tmp_path, busy, limits={"stall_seconds": 2.5})).outputs_path


def test_checkpoints_are_stored_while_the_command_runs(tmp_path: Path, in_background: Any) -> None:
    script = f"""
        import os, time
        folder = os.environ["REFLUX_CHECKPOINTS"]
        open(folder + "/old", "w").write("1")
        open(folder + "/new", "w").write("1")
        open("{tmp_path}/pid-1", "w").write(str(os.getpid()))
        while not os.path.exists("{tmp_path}/go"): time.sleep(0.05)
        os.remove(folder + "/old")
        time.sleep(60)
    """
    begun = in_background(task(tmp_path, script, checkpoint_seconds=0.3))
    pids(tmp_path, 1)
    store, folder = begun.hand.artifacts, "runs/r1/pieces/run_job/checkpoints"
    eventually(lambda: store.paths(folder) == [f"{folder}/new", f"{folder}/old"], 20, "no checkpoint was stored")
    (tmp_path / "go").touch()
    eventually(lambda: store.paths(folder) == [f"{folder}/new"], 20, "what is gone was not removed")


def test_signals_by_number_have_names() -> None:
    from services.gpu_trainer.command import manner

    assert manner({"returncode": -signal.SIGTERM}) == "The command was ended by SIGTERM (terminated)"
    assert manner({"returncode": -63}).startswith("The command was ended by signal 63")
    assert "from outside" in manner({})
