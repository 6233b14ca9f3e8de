"""Celery's workers, when their broker was away."""

import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from reflux.client import Client
from reflux.local.stack import Stack
from tests.environment import ROOT
from tests.integration.by_hand import SPEC

LOOP_SECONDS = 10.0  # that Celery's event loop sleeps when nothing wakes it


def test_a_worker_is_as_quick_after_an_outage_as_before(ground: Path) -> None:
    """Its event loop drops its timers with the connection. Then each ring would wait for the loop."""
    with Stack(ground / "broker-away", workers={}, durable=False) as stack, ExitStack() as open_:
        for service in ("teacher_worker", "evaluator", "gpu_trainer"):
            command = [sys.executable, "-m", "tests.integration.idle_worker", service]
            env = stack.environment() | {"REFLUX_WORKER_NAME": service}
            process = open_.enter_context(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL))
            open_.callback(process.terminate)
        with Client(stack.api_url, stack.keys["operator"]) as client:
            client.wait(client.create(SPEC).id, 60)
            stack.stop("valkey")
            stack.start("valkey")
            client.wait(client.create(SPEC).id, 60)
            run = client.wait(client.create(SPEC).id, 120)
            events = client.events(run.id, limit=1000).data
    waits = [(b.at - a.at).total_seconds() for a, b in pairwise(events) if b.type == "task_claimed"]
    assert len(waits) > 10
    assert max(waits) < LOOP_SECONDS / 2, waits
