"""What can be done to a run: to its processes, servers, roads, rings and disks. Each of it on a Ground, which mends it all."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psutil
import psycopg
import redis

from reflux.local.stack import Process, Stack
from tests.faults.disks import Disk
from tests.faults.post import Mood, Post
from tests.faults.wire import Spoil, Wire
from tests.integration.by_hand import eventually

OUTAGE_SECONDS = 20.0
STOP_SECONDS = 30.0
LEASE_SECONDS = 8
WORKERS = ("teacher_worker-1", "evaluator-1", "gpu_trainer-1")
SECOND = "gpu_trainer-2"


@dataclass
class Ground:
    """The stack under test; on `bad_roads` also its wires and its postman, on `small_disks` its disks.

    `traces` say whether what was done has had an effect at all.
    """

    stack: Stack
    wires: dict[str, Wire] = field(default_factory=dict)
    post: Post | None = None
    disks: dict[str, Disk] = field(default_factory=dict)
    traces: list[Callable[[], bool]] = field(default_factory=list)
    mending: ExitStack = field(default_factory=ExitStack)

    @property
    def database(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.stack.ports['postgres']}/reflux"

    def mend(self) -> None:
        self.traces.clear()
        self.mending.close()

    def restart(self, name: str, **env: str) -> None:
        """With these settings, until all is mended."""
        self.mending.callback(self._restart, name, self.stack.processes[name].env)
        self._restart(name, self.stack.processes[name].env | env)

    def _restart(self, name: str, env: dict[str, str]) -> None:
        self.stack.stop(name)
        self.stack.processes[name].env = env
        self.stack.start(name)


Harm = Callable[[Ground], None]


def all_of(*harms: Harm) -> Harm:
    def inject(ground: Ground) -> None:
        for harm in harms:
            harm(ground)

    return inject


# Processes


def kill(name: str, number: signal.Signals = signal.SIGKILL) -> Harm:
    return lambda ground: ground.stack.kill(name, number)


def told_to_stop(name: str) -> Harm:
    """As by a deploy: it has 30 s to finish or to hand back what it has in hand."""

    def inject(ground: Ground) -> None:
        popen = ground.stack.processes[name].popen
        assert popen
        popen.terminate()
        popen.wait(STOP_SECONDS)

    return inject


def to_trainers_child(number: signal.Signals) -> Harm:
    """It is started with the trainer's first task."""

    def child(ground: Ground) -> psutil.Process | None:
        below = psutil.Process(ground.stack.pid("gpu_trainer-1")).children(recursive=True)
        return next((one for one in below if "services.gpu_trainer.child" in " ".join(one.cmdline())), None)

    return lambda ground: os.kill(eventually(lambda: child(ground), 30, "the trainer has no child").pid, number)


def second_trainer(named: str | None = None) -> Harm:
    """Another process of the trainer, under a name of its own or under the first one's."""

    def inject(ground: Ground) -> None:
        first = ground.stack.processes["gpu_trainer-1"]
        name = named or first.env["REFLUX_WORKER_NAME"]
        ground.stack.processes[SECOND] = Process(SECOND, first.command, first.env | {"REFLUX_WORKER_NAME": name})
        ground.mending.callback(ground.stack.processes.pop, SECOND)
        ground.mending.callback(ground.stack.stop, SECOND)
        ground.stack.start(SECOND)

    return inject


def clocks_ahead(ground: Ground) -> None:
    """The workers' wall clocks are ten minutes ahead of everybody else's."""
    library = ground.stack.folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    for name in WORKERS:
        ground.restart(name, LD_PRELOAD=str(library))


def frozen(name: str, seconds: float) -> Harm:
    """The process lives and does nothing, as on a machine that swaps."""

    def inject(ground: Ground) -> None:
        ground.stack.kill(name, signal.SIGSTOP)
        time.sleep(seconds)
        ground.stack.kill(name, signal.SIGCONT)

    return inject


# Servers


def teacher(**behaviour: Any) -> Harm:
    def inject(ground: Ground) -> None:
        url = f"http://127.0.0.1:{ground.stack.ports['teacher']}/_control"
        ground.mending.callback(httpx.post, url, json={})
        httpx.post(url, json=behaviour).raise_for_status()

    return inject


def stopped(name: str, seconds: float = OUTAGE_SECONDS) -> Harm:
    def inject(ground: Ground) -> None:
        ground.stack.stop(name)
        time.sleep(seconds)
        ground.stack.start(name)

    return inject


def flush(ground: Ground) -> None:
    with redis.Redis(port=ground.stack.ports["valkey"]) as valkey:
        valkey.flushall()


def killed_empty(ground: Ground) -> None:
    """Valkey is killed and comes back without its file."""
    ground.stack.stop("valkey")
    for file in (ground.stack.folder / "valkey").rglob("*"):
        if file.is_file():
            file.unlink()
    ground.stack.start("valkey")


def cut_connections(ground: Ground) -> None:
    """Every transaction under way in PostgreSQL is lost, three times."""
    for _ in range(3):
        with psycopg.connect(ground.database, autocommit=True) as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        time.sleep(0.5)


CONFLICTS = """
create sequence conflicts;
create function conflict() returns trigger language plpgsql as $$
begin
    if random() < 0.2 then
        perform nextval('conflicts');
        raise exception 'could not serialize access due to concurrent update' using errcode = 'serialization_failure';
    end if;
    return null;
end $$;
create constraint trigger conflict after insert on events deferrable initially deferred for each row execute function conflict();
create trigger conflict after update on tasks for each row when (old.heard_at <> new.heard_at) execute function conflict();
"""
PEACE = """
drop trigger conflict on events;
drop trigger conflict on tasks;
drop function conflict;
drop sequence conflicts;
"""


def conflicts(ground: Ground) -> None:
    """One in five events fails with 40001 at its commit, and one in five beats at once."""

    def raised() -> bool:
        with psycopg.connect(ground.database) as connection:
            return bool(connection.execute("select is_called from conflicts").fetchone() == (True,))

    def execute(statements: LiteralString) -> None:
        with psycopg.connect(ground.database, autocommit=True) as connection:
            connection.execute(statements)

    ground.mending.callback(execute, PEACE)
    execute(CONFLICTS)
    ground.traces.append(raised)


def full(disk: str, *, for_good: bool = False) -> Harm:
    """Until a task has failed of it; for good, until all is mended."""
    failed = "select true from events where type = 'task_retried' and id > %s"

    def inject(ground: Ground) -> None:
        ground.mending.callback(ground.disks[disk].clear)
        with psycopg.connect(ground.database, autocommit=True) as connection:
            last = connection.execute("select max(id) from events").fetchone()
            ground.disks[disk].fill()
            eventually(lambda: connection.execute(failed, last).fetchone(), 240, f"nothing has failed of a full {disk}")
        if not for_good:
            ground.disks[disk].clear()

    return inject


# Roads and rings


def spoilt(wire: str, *spoils: Spoil) -> Harm:
    def inject(ground: Ground) -> None:
        for spoil in spoils:
            spoil.__post_init__()
            spoil.done = 0
        ground.mending.callback(ground.wires[wire].spoil)
        ground.wires[wire].spoil(*spoils)
        ground.traces.append(lambda: all(spoil.done for spoil in spoils))

    return inject


def postman(mood: Mood) -> Harm:
    def inject(ground: Ground) -> None:
        assert ground.post
        ground.mending.callback(setattr, ground.post, "mood", "honest")
        ground.post.mood = mood

    return inject


def short_lease(ground: Ground) -> None:
    """Whoever is silent for 8 s counts as lost."""
    ground.restart("control", REFLUX_LEASE=f"PT{LEASE_SECONDS}S")
