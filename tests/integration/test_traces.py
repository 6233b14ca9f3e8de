"""What control tells a collector of a run: real transactions, a real exporter, and a collector that takes the protobuf apart."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.event import listen, remove
from sqlalchemy.orm import Session

from reflux import prices, traces
from reflux.artifacts import attempt_folder
from reflux.commands import Preflight, Train
from reflux.events import AbortRequested, RunAdmitted
from reflux.stages import Stage
from reflux.traces import span_id
from services.api import forks
from services.api.advance import append, lock
from services.api.tracing import Tracing
from tests.collector import Collector, Heard, collector
from tests.integration.desk import Desk, completing, failing, handing_back, losing


@pytest.fixture
def heard() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
def tracing(desk: Desk, heard: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    desk.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", heard.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    traces.set_up("control")
    yield Tracing(desk.engine, traces.exporter())
    traces.close()


def by_id(spans: list[Heard]) -> dict[str, Heard]:
    assert len({span.span_id for span in spans}) == len(spans), "a span was sent twice"
    return {span.span_id: span for span in spans}


def test_a_run_is_one_tree_once_it_is_over(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    desk.work(run_id)
    assert tracing.tell()
    spans = by_id(heard.spans)
    assert {span.trace_id for span in spans.values()} == {traces.trace_id(run_id)}
    assert {span.service for span in spans.values()} == {"control"}
    root = spans[span_id(run_id)]
    assert (root.name, root.parent, root.error) == ("run distill", "", None)
    assert root.attributes["reflux.outcome"] == "succeeded"
    for span in spans.values():
        assert span.attributes["reflux.run.id"] == run_id
        assert span is root or span.parent in spans, f"{span.name} hangs in the air"
        assert root.began <= span.began <= span.ended <= root.ended
        if span.parent in spans:
            assert spans[span.parent].began <= span.began
            assert span.ended <= spans[span.parent].ended
    for task in desk.tasks(run_id):
        attempt, whole = spans[span_id(run_id, task.key, 1)], spans[span_id(run_id, task.key)]
        assert (attempt.name, attempt.parent) == (f"{task.kind} attempt", whole.span_id)
        assert attempt.attributes["reflux.how"] == "done"
        assert attempt.attributes["reflux.artifacts"] == attempt_folder(run_id, task.key, 1)
        assert (whole.name, whole.parent) == (task.kind, span_id(run_id, "stage", task.stage, task.epoch))


def test_each_attempt_has_its_span_and_names_the_one_before(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    [first] = desk.take_all(run_id)
    desk.do(losing(first))
    [second] = desk.take_all(run_id)
    desk.do(handing_back(second))
    [third] = desk.take_all(run_id)
    desk.do(completing(third))
    assert tracing.tell()
    key = first.command.key
    one, two, three = (by_id(heard.spans)[span_id(run_id, key, number)] for number in (1, 2, 3))
    assert [span.attributes["reflux.how"] for span in (one, two, three)] == ["retried", "handed_back", "done"]
    assert [span.error for span in (one, two, three)] == ["worker_lost", None, None]
    assert [span.links for span in (one, two, three)] == [
        (),
        ((one.trace_id, one.span_id),),
        ((one.trace_id, two.span_id),),
    ]
    whole = by_id(heard.spans)[span_id(run_id, key)]
    assert whole.attributes["reflux.attempts"] == 3
    assert {span.parent for span in (one, two, three)} == {whole.span_id}
    assert span_id(run_id) not in by_id(heard.spans), "the run goes on"


def test_an_attempt_that_was_late_is_superseded(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    [first] = desk.take_all(run_id)
    desk.do(losing(first))
    desk.take_all(run_id)
    desk.do(completing(first))
    assert tracing.tell()
    late = by_id(heard.spans)[span_id(run_id, first.command.key, 2)]
    assert (late.attributes["reflux.how"], late.error) == ("superseded", None)


def test_a_failed_run_says_by_which_code_and_no_more(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    [preflight] = desk.take_all(run_id)
    assert isinstance(preflight.command, Preflight)
    desk.do(failing(preflight, "access_denied"))
    desk.work(run_id)
    assert tracing.tell()
    spans = by_id(heard.spans)
    for path in ((), ("preflight",), ("preflight", 1)):
        assert spans[span_id(run_id, *path)].error == "access_denied"
    assert spans[span_id(run_id)].attributes["reflux.outcome"] == "failed"
    assert "it went wrong" not in str(heard.spans)


def test_what_was_stopped_is_told_with_the_end(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    in_hand = desk.until_stage(run_id, Stage.TRAINING)
    assert [type(given.command) for given in in_hand] == [Train]
    desk.tell(run_id, AbortRequested(by="tester"))
    desk.do(handing_back(in_hand[0]))
    assert tracing.tell()
    key = in_hand[0].command.key
    assert by_id(heard.spans)[span_id(run_id, key, 1)].attributes["reflux.how"] == "stopped"
    assert span_id(run_id, key) not in by_id(heard.spans), "it could still be given again"
    desk.work(run_id)
    assert tracing.tell()
    assert by_id(heard.spans)[span_id(run_id, key)].attributes["reflux.task.status"] == "stopped"
    assert by_id(heard.spans)[span_id(run_id)].attributes["reflux.outcome"] == "aborted"


def test_a_fork_s_trace_names_that_of_its_origin(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    desk.work(run_id)
    fork = desk.do(lambda session: forks.create(session, run_id, "tester", None, {}, prices.PRICES)).id
    desk.tell(fork, RunAdmitted())
    desk.work(fork)
    assert tracing.tell()
    root = by_id(heard.spans)[span_id(fork)]
    assert root.trace_id == traces.trace_id(fork)
    assert root.links == ((traces.trace_id(run_id), span_id(run_id)),)


def test_an_end_that_comes_while_the_run_is_read_is_told_next_time(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    [clean_up] = desk.until_stage(run_id, Stage.CLEANING_UP)
    meanwhile = [completing(clean_up)]

    def after_the_run_was_read(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "runs.state" in statement and meanwhile:
            assert desk.do(meanwhile.pop()).accepted

    listen(desk.engine, "after_cursor_execute", after_the_run_was_read)
    try:
        assert tracing.tell()
    finally:
        remove(desk.engine, "after_cursor_execute", after_the_run_was_read)
    assert span_id(run_id) not in by_id(heard.spans)
    assert tracing.tell()
    assert by_id(heard.spans)[span_id(run_id)].attributes["reflux.outcome"] == "succeeded"


def test_what_the_collector_did_not_take_is_sent_again_and_nothing_twice(desk: Desk, tracing: Tracing, heard: Collector) -> None:
    run_id = desk.create()
    heard.status = 503
    desk.until_stage(run_id, Stage.TRAINING)
    assert not tracing.tell()
    assert desk.row(run_id).traced_seq == 0
    heard.status = 200
    assert tracing.tell()
    before = len(heard.spans)
    assert tracing.tell()
    assert len(heard.spans) == before
    Tracing(desk.engine, traces.exporter()).tell()  # another control process
    desk.work(run_id)
    assert tracing.tell()
    by_id(heard.spans)
    done = [task.key for task in desk.tasks(run_id, "done")]
    assert {span_id(run_id, key) for key in done} <= {span.span_id for span in heard.spans}
    with Session(desk.engine) as session, session.begin():  # as retention does, long after
        row = lock(session, run_id)
        assert row
        append(session, row, "later", {})
    assert tracing.tell()
    by_id(heard.spans)
