"""The grounds that faults are tried on, and the table of what became of them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.tiny import EXAMPLES
from tests.faults.disks import Disk
from tests.faults.harm import Ground
from tests.faults.post import Post
from tests.faults.samples import Samples
from tests.faults.table import Cell, drawn, progress
from tests.faults.wire import Wire
from tests.s3 import BUCKET, s3_server

CELLS: list[Cell] = []
SECONDS: list[float] = []  # that each took


@pytest.fixture(scope="session")
def cells() -> list[Cell]:
    return CELLS


@pytest.fixture(scope="session")
def twin(stack: Stack, calm_run: RunView) -> Samples:
    assert calm_run.outcome == "succeeded", calm_run.error
    return Samples.of(Artifacts(stack.artifacts_url), calm_run)


@pytest.fixture(scope="session")
def level_ground(stack: Stack) -> Ground:
    return Ground(stack)


@dataclass
class WiredStack(Stack):
    """Its processes reach the API, the object store and the teacher by wires."""

    wires: dict[str, Wire] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        self.wires["api"].lead_to(self.api_url)
        self.wires["teacher"].lead_to(f"http://127.0.0.1:{self.ports['teacher']}")
        roads = {"REFLUX_API_URL": "api", "REFLUX_TEACHER_URL": "teacher", "AWS_ENDPOINT": "store"}
        return super().environment() | {name: self.wires[wire].url for name, wire in roads.items()}


@pytest.fixture(scope="session")
def bad_roads(ground: Path) -> Iterator[Ground]:
    """A stack of its own, on a real S3 server: processes meet by wires, and rings go by post."""
    with ExitStack() as open_:
        s3 = open_.enter_context(s3_server(ground / "s3"))
        own = open_.enter_context(pytest.MonkeyPatch.context())
        for name, value in s3.environment.items():
            own.setenv(name, value)
        wires = {name: open_.enter_context(Wire()) for name in ("api", "teacher", "store")}
        wires["store"].lead_to(s3.endpoint)
        env = {"REFLUX_ARTIFACTS_URL": f"s3://{BUCKET}/faults", "REFLUX_MODEL_CACHE": str(ground / "models")}
        stack = WiredStack(ground / "bad-roads", (EXAMPLES / "teacher.jsonl",), durable=False, env=env, wires=wires)
        open_.enter_context(stack)
        post = open_.enter_context(Post(stack.ports["valkey"]))
        stack.processes["control"].env["REFLUX_BROKER_URL"] = post.rings_url
        stack.stop("control")
        stack.start("control")
        yield Ground(stack, wires, post)


@pytest.fixture(scope="session")
def small_disks(ground: Path) -> Iterator[Ground]:
    """A stack of its own, whose artifacts and whose scratch space lie on disks that can be full."""
    with ExitStack() as open_:
        try:
            disks = {name: open_.enter_context(Disk(ground / "disks" / name)) for name in ("store", "scratch")}
        except PermissionError as refused:
            pytest.skip(f"A disk that can be full needs the right to mount: {refused}")
        env = {
            "REFLUX_ARTIFACTS_URL": f"file://{disks['store'].folder}",
            "REFLUX_MODEL_CACHE": str(ground / "models"),
            "TMPDIR": str(disks["scratch"].folder),
        }
        stack = Stack(ground / "small-disks", (EXAMPLES / "teacher.jsonl",), durable=False, env=env)
        yield Ground(open_.enter_context(stack), disks=disks)


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest, cells: list[Cell]) -> Iterator[None]:
    """A line for each cell, as soon as it is known."""
    started, before = time.monotonic(), len(cells)
    yield
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and len(cells) > before:
        SECONDS.append(time.monotonic() - started)
        total = sum("matrix.py" in item.nodeid for item in request.session.items)
        terminal.ensure_newline()
        terminal.write_line(progress(cells[-1], len(cells), total, sum(SECONDS) / len(SECONDS)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CELLS:
        terminalreporter.section("faults")
        for line in drawn(CELLS):
            terminalreporter.write_line(line)
