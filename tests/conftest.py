"""What tests stand on: a folder, a tiny student, the stack, one run that nobody disturbs; for the trainer a bench and a store."""

import gc
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.collector import Collector, collector
from tests.e2e.tiny import EXAMPLES, tiny_spec

ON_ONE_STACK = ("browser", "e2e", "faults")


class ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """Where tests run side by side, a file's stay together, and so do those on the same stack."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::", maxsplit=1)[0])
        return "stack" if file.parent.name in ON_ONE_STACK else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServers:
    return ByServers(config, log)


def pytest_collection_finish() -> None:
    """The libraries are imported: their objects need not be looked at whenever a training collects its garbage."""
    gc.collect()
    gc.freeze()


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
def heard() -> Iterator[Collector]:
    """Where the stack's traces go."""
    with collector() as found:
        yield found


@pytest.fixture(scope="session")
def stack(ground: Path, heard: Collector) -> Iterator[Stack]:
    """Every process of the product, as it runs anywhere."""
    env = {"REFLUX_MODEL_CACHE": str(ground / "models"), "OTEL_EXPORTER_OTLP_ENDPOINT": heard.url}
    with Stack(ground / "stack", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        yield stack


@pytest.fixture(scope="session")
def calm_run(stack: Stack, student: Path) -> RunView:
    """A whole run of two epochs, undisturbed."""
    with Client(stack.api_url, stack.keys["operator"]) as client:
        return client.wait(client.create(tiny_spec(student)).id, 400)


@pytest.fixture(scope="session")
def bench() -> Any:
    """A Bench that keeps its student from one test to the next."""
    from services.gpu_trainer.models import Bench

    return Bench()


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    """A few rows and prompts below `in/`."""
    from tests.trainer_tasks import filled

    return filled(f"file://{tmp_path}/store")
