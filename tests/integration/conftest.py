"""The control plane alone, really running: PostgreSQL, Valkey, API and control, with a lease of two seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.worker import Api
from tests.integration.by_hand import HandWorker

TIMES = {"REFLUX_LEASE": "PT2S", "REFLUX_GRACE": "PT2S", "REFLUX_BEAT": "PT0.5S", "REFLUX_RING_AGAIN": "PT1S"}


@pytest.fixture(scope="session")
def control_plane(ground: Path) -> Iterator[Stack]:
    with Stack(ground / "control-plane", workers={}, durable=False, env=TIMES | {"REFLUX_MAX_ACTIVE_RUNS": "100"}) as stack:
        yield stack


@pytest.fixture
def client(control_plane: Stack) -> Iterator[Client]:
    with Client(control_plane.api_url, control_plane.keys["operator"]) as client:
        yield client


@pytest.fixture
def worker(control_plane: Stack) -> Iterator[HandWorker]:
    api = Api(control_plane.api_url, control_plane.keys["worker"])
    with api.http:
        yield HandWorker(api, control_plane)
