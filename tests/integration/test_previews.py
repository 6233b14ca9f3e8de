"""People look at data through a teacher worker's real errands thread, by REST, client and CLI, over real HTTP and PostgreSQL."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reflux.answering import Answering
from reflux.cli import app
from reflux.client import ApiError, Client
from reflux.errands import PreviewErrand
from reflux.local.stack import Stack
from reflux.previews import LinesPreview, SourcesPreview
from reflux.worker import Worker
from services.teacher_worker.previews import ERRANDS
from tests.integration.by_hand import HandWorker, eventually
from tests.integration.test_errands import WRITTEN, Hand


@pytest.fixture
def looking(control_plane: Stack, worker: HandWorker) -> Iterator[None]:
    teacher = Worker("teacher_worker", {}, worker.api, control_plane.artifacts_url, "teacher-looks")
    teacher.register({})
    answering = Answering(teacher, ERRANDS)
    answering.start()
    yield
    teacher.shutting_down = True
    worker.sql("select pg_notify('reflux_errands', 'teacher_worker')")
    answering.thread.join(20)
    worker.sql("delete from errands")


@pytest.fixture
def nobody(worker: HandWorker) -> Iterator[None]:
    """No teacher worker's thread but those that the test plays."""
    worker.sql("delete from workers where service = 'teacher_worker'")
    yield
    worker.sql("delete from errands")


@pytest.mark.usefixtures("looking")
def test_a_place_is_looked_at_before_there_is_a_run(
    control_plane: Stack, client: Client, worker: HandWorker, tmp_path: Path
) -> None:
    (tmp_path / "gate.c").write_text("int gate;\n")
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,completion\nAsk.,int x;\n,none\n")
    found = client.preview(f"file://{tmp_path}", "sources")
    assert isinstance(found, SourcesPreview)
    assert (found.suffixes, found.others, found.paths) == ({".c": 1}, 1, ["gate.c"])
    looked = client.preview(f"file://{rows}", "rows")
    assert isinstance(looked, LinesPreview)
    assert [row.messages[1].content for row in looked.rows] == ["int x;"]
    with pytest.raises(ApiError) as refused:
        client.preview(f"file://{tmp_path}/gone", "sources")
    problem = refused.value.problem
    assert (problem.status, problem.code) == (422, "empty_dataset")
    assert "there is no such folder" in problem.detail
    assert "data.sources" in problem.hint
    assert worker.sql("select distinct run_id, spec, kind from errands") == [(None, None, "preview")]
    env = {"REFLUX_URL": control_plane.api_url, "REFLUX_KEY": control_plane.keys["operator"]}
    shown = CliRunner().invoke(app, ["data", "preview", f"file://{tmp_path}"], env=env)
    assert shown.exit_code == 0
    assert shown.stdout.endswith("1 .c; others: 1\n  gate.c\n\ngate.c\nint gate;\n\n"), "before it: the worker's log"
    wrong = CliRunner().invoke(app, ["data", "preview", f"file://{rows}"], env=env)
    assert wrong.exit_code == 1
    assert "2 rows looked at, 1 wrong (csv)\n  line 3: `prompt` is empty\n\nuser Ask.\nassistant int x;\n" in wrong.stdout
    as_json = CliRunner().invoke(app, ["data", "preview", f"file://{rows}", "--holds", "rows", "--json"], env=env)
    assert json.loads(as_json.stdout[as_json.stdout.index("{") :]) == looked.model_dump(mode="json")


def test_who_may_look_and_at_what(control_plane: Stack, client: Client, worker: HandWorker, nobody: None) -> None:
    def refused(body: dict[str, str], by: Client = client) -> tuple[int, str]:
        answer = by.http.post("/v1/previews", json=body)
        return answer.status_code, answer.json()["code"]

    place = {"uri": "file:///src", "holds": "sources"}
    assert refused(place) == (503, "no_worker")
    with Client(control_plane.api_url, client.create_key("viewer", "looks on").key) as viewer:
        assert refused(place, viewer) == (403, "wrong_role")
    assert refused({"uri": "s3://me:secret@bucket/x", "holds": "sources"}) == (422, "secret_in_spec")
    assert refused({"uri": "", "holds": "sources"}) == (422, "malformed")
    assert refused({"uri": "file:///src", "holds": "weights"}) == (422, "malformed")


def test_whoever_leaves_ends_it_and_nobody_asks_too_much(client: Client, worker: HandWorker, nobody: None) -> None:
    hand = Hand(worker.api, "teacher_worker")
    place = {"uri": "file:///src", "holds": "sources"}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.http.post, "/v1/previews", json=place) for _ in range(4)]
        eventually(
            lambda: worker.sql("select count(*) from errands where status = 'ready'") == [(4,)], 10, "not all were taken on"
        )
        assert client.http.post("/v1/previews", json=place).json()["code"] == "too_many_questions"
        errand = hand.take()
        assert errand.order == PreviewErrand(uri="file:///src", holds="sources")
        assert not hand.end(errand, result=WRITTEN), "that is no answer to it"
        worker.sql("update errands set created_at = now() - interval '61 seconds' where status = 'ready'")
        told = sorted((answer.result().status_code, answer.result().json()["code"]) for answer in asked)
    assert told == [(503, "internal"), *[(503, "preview_late")] * 3]
    eventually(lambda: worker.sql("select 1 from errands where status in ('ready', 'claimed')") == [], 10, "it waits on")
