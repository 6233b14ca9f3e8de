"""What whole runs stand on, made once a session: a folder, a tiny student, the stack, and one run that nobody disturbs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.tiny import EXAMPLES, tiny_spec


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder for servers: pytest's own are closed to the user that PostgreSQL may fall back to."""
    folder = Path(tempfile.mkdtemp(prefix="reflux-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def student(ground: Path) -> Path:
    from tests.tiny_student import make

    return make(ground / "student")


@pytest.fixture(scope="session")
def stack(ground: Path) -> Iterator[Stack]:
    """Every process of the product, as it runs anywhere."""
    env = {"REFLUX_MODEL_CACHE": str(ground / "models")}
    with Stack(ground / "stack", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        yield stack


@pytest.fixture(scope="session")
def calm_run(stack: Stack, student: Path) -> RunView:
    """A whole run of two epochs, undisturbed."""
    with Client(stack.api_url, stack.keys["operator"]) as client:
        return client.wait(client.create(tiny_spec(student)).id, 400)
