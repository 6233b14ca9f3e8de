"""A run's JSON files, read again and again while it goes: never half a file, never back in sequence."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts, run_folder
from reflux.errors import RefluxError
from reflux.stages import Stage
from reflux.task import Task
from services.api.projection import project
from services.teacher_worker.tasks import HANDLERS
from tests.integration.desk import Desk, completing
from tests.s3 import BUCKET, s3_server


@pytest.fixture(params=["directory", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifacts]:
    if request.param == "directory":
        yield Artifacts(f"file://{tmp_path}/store")
        return
    with s3_server(tmp_path / "s3") as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        yield Artifacts(f"s3://{BUCKET}/state-files")


class Reader:
    """Looks at one file in a loop; `seen` is what it read, without repeats."""

    def __init__(self, artifacts: Artifacts, path: str) -> None:
        self.artifacts, self.path = artifacts, path
        self.seen: list[dict[str, object]] = []
        self.reads = 0
        self.trouble: Exception | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while not self.over.is_set():
            try:
                if self.artifacts.exists(self.path):
                    read = json.loads(self.artifacts.get(self.path))
                    self.reads += 1
                    self.seen += [read] if read not in self.seen[-1:] else []
            except (RefluxError, ValueError) as trouble:
                self.trouble = trouble
                return

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        assert self.trouble is None, f"{self.path}: {self.trouble}"
        assert self.reads > 1


def test_a_reader_never_sees_half_a_file_nor_an_older_one(desk: Desk, artifacts: Artifacts) -> None:
    """Two control processes write, five readers look, while a run goes from its beginning to its end."""
    desk.clear()
    run_id = desk.create(refining={"max_epochs": 3})
    names = ("system-state.json", "training.json", "training_summary.json", "spec.json", "cleanup_status.json")
    readers = {name: Reader(artifacts, f"{run_folder(run_id)}/{name}") for name in names}
    ended = threading.Event()

    def control() -> None:
        while not ended.is_set():
            project(desk.engine, artifacts)

    controls = [threading.Thread(target=control) for _ in range(2)]
    for thread in controls:
        thread.start()
    (given,) = desk.until_stage(run_id, Stage.CLEANING_UP)
    HANDLERS["clean_up"](Task(run_id, given.command, given.spec, artifacts))
    assert desk.do(completing(given)).accepted
    ended.set()
    for thread in controls:
        thread.join()
    project(desk.engine, artifacts)
    last = artifacts.get_json(f"{run_folder(run_id)}/system-state.json")
    for reader in readers.values():
        reader.close()
    sequence = [state["sequence"] for state in readers["system-state.json"].seen]
    assert len(sequence) > 2, "the reader saw it change"
    assert sequence == sorted(sequence)  # type: ignore[type-var]
    assert (last["status"], last["sequence"]) == ("succeeded", desk.row(run_id).seq)
    ends = [state["timestamp_end"] is not None for state in readers["training.json"].seen]
    assert ends == sorted(ends)
    assert [state["manual_action_required"] for state in readers["cleanup_status.json"].seen] == [False]
