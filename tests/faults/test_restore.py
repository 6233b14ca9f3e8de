"""Postgres is lost in the midst of a run, and restored from an older dump by the commands of docs/operations.md."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local import servers
from reflux.local.stack import Stack
from tests.e2e.tiny import EXAMPLES, tiny_spec
from tests.environment import ROOT
from tests.faults.samples import Samples
from tests.faults.test_matrix import calls, claimed
from tests.integration.by_hand import eventually

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def documented(title: str) -> str:
    """The commands below a heading of the page."""
    below = PAGE.partition(f"\n### {title}\n")[2]
    commands = below.partition("```sh\n")[2].partition("```")[0]
    assert "pg_" in commands, title
    return commands


def as_an_operator(title: str, folder: Path, port: int, programs: Path) -> None:
    env = servers.clean_env() | {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}
    env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
    subprocess.run(["bash", "-e", "-c", documented(title)], cwd=folder, env=env, check=True)


def restore(data: Path, folder: Path) -> None:
    """A new cluster with what was dumped into `folder`."""
    port = servers.free_port()
    initdb, server, programs = servers.postgres_commands(data, port, durable=False)
    servers.make_cluster(data, initdb)
    command = [*servers.unprivileged(data), *servers.dying_with_parent(server, signal.SIGINT)]
    with subprocess.Popen(command, env=servers.clean_env(), cwd="/", stderr=subprocess.DEVNULL) as running:
        try:
            servers.wait_for_postgres(programs, port)
            as_an_operator("Restore", folder, port, programs)
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 0


def answers_take(stack: Stack, seconds: float) -> None:
    httpx.post(f"http://127.0.0.1:{stack.ports['teacher']}/_control", json={"latency": seconds}).raise_for_status()


@pytest.mark.long
@pytest.mark.parametrize(("dumped", "lost"), [("teach-0000", "judge-001-0000-1"), ("train-001", "train-002")])
def test_a_run_goes_on_from_an_older_dump(
    ground: Path, student: Path, twin: Samples, tmp_path: Path, dumped: str, lost: str
) -> None:
    """`dumped` is in a worker's hands at the dump, `lost` when all is lost: what lies between is done, but not in the dump."""
    env = {"REFLUX_MODEL_CACHE": str(ground / "models")}
    folder = ground / f"restored-{dumped}"
    with Stack(folder, (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        with Client(stack.api_url, stack.keys["operator"]) as client:
            answers_take(stack, 2.0)
            run = client.create(tiny_spec(student, teacher={"provider": "recorded", "concurrency": 1}))
            eventually(lambda: dumped in claimed(client, run.id), 400, f"{dumped} never began")
            _, _, programs = servers.postgres_commands(folder / "postgres", 0, durable=False)
            as_an_operator("Back up", tmp_path, stack.ports["postgres"], programs)
            known = len(calls(stack))
            answers_take(stack, 0.0)
            eventually(lambda: lost in claimed(client, run.id), 400, f"{lost} never began")
        bought = calls(stack)
    assert len(bought) > known, "nothing was bought after the dump"
    shutil.rmtree(folder / "postgres")
    shutil.rmtree(folder / "valkey")
    restore(folder / "postgres", tmp_path)
    restored_at = datetime.now(UTC)
    with (
        Stack(folder, (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack,
        Client(stack.api_url, stack.keys["operator"]) as client,
    ):
        run = client.wait(run.id, 500)
        assert (run.outcome, run.reason) == ("succeeded", "max epochs"), run.error
        first = next(event for event in client.events(run.id, limit=1000).data if event.body.get("key") == lost)
        assert first.at > restored_at, "the dump was of an older state"
        made = Samples.of(Artifacts(stack.artifacts_url), run)
        assert (made.lost(twin), made.doubled(twin)) == (0, 0)
        served = Counter(call["text"] for call in [*bought, *calls(stack)] if call["status"] == 200)
        assert served.total() == len(served), "an answer was bought twice"
