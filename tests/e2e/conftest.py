"""The whole stack as separate processes, with a tiny student; shared by the tests that run on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from tests.e2e.tiny import EXAMPLES


@pytest.fixture(scope="session")
def student(ground: Path) -> Path:
    from tests.tiny_student import make

    return make(ground / "student")


@pytest.fixture(scope="session")
def stack(ground: Path) -> Iterator[Stack]:
    env = {"REFLUX_MODEL_CACHE": str(ground / "models"), "OMP_NUM_THREADS": "2"}
    with Stack(ground / "stack", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.api_url, stack.keys["operator"]) as client:
        yield client
