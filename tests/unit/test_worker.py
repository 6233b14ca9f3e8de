"""What a worker tells the API of a command that it can't do."""

from pathlib import Path

from reflux.artifacts import Artifacts
from reflux.commands import Provision
from reflux.protocol import Failing
from reflux.stages import Stage
from reflux.task import Task
from reflux.worker import Api, Worker
from tests.unit import stories


def test_a_command_without_a_handler_ends_the_run_with_words(tmp_path: Path) -> None:
    api = Api("http://127.0.0.1:9", "no key")
    with api.http:
        worker = Worker("teacher_worker", {}, api, f"file://{tmp_path}", "w")
        task = Task("r", Provision(stage=Stage.PROVISIONING), stories.spec(), Artifacts(f"file://{tmp_path}"))
        path, body = worker._work(task, 0.0)
    assert path == "fail"
    assert isinstance(body, Failing)
    assert body.failure.code == "not_supported"
    assert "provision" in body.failure.message
    assert body.failure.hint
