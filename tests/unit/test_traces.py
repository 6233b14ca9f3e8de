"""Traces off cost nothing; on, they never hold a process up, and tell no secret."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reflux import traces
from reflux.artifacts import Artifacts
from reflux.commands import RunJob
from reflux.errors import Retriable, Stopped
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer.surroundings import Place, variables
from tests.collector import collector
from tests.unit import stories

ENDS_WITHIN = 120  # seconds, on a busy machine; a send that is waited for takes longer


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | env, capture_output=True, text=True, timeout=ENDS_WITHIN, check=True
    )


def test_off_it_imports_nothing_and_takes_everything() -> None:
    code = """
import sys
from reflux import traces
from services.api import control
traces.set_up("control")
with traces.span("a", traces.traceparent("r", "train-001")) as span:
    span.note({"n": 1})
    span.event("e")
    assert span.traceparent is None
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk") or name.startswith("opentelemetry.exporter")]
traces.close()
"""
    run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_SDK_DISABLED="true")
    run(code.replace("from services.api import control\n", ""))


SPANS = """
from reflux import logs, traces
traces.CLOSE_SECONDS = 0.5
logs.set_up("evaluator")
traces.set_up("evaluator")
for _ in range(3000):
    with traces.span("score work", traces.traceparent("r", "score-001", 1)):
        pass
traces.close()
"""


def test_a_collector_that_never_answers_holds_no_process_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        run(SPANS, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}", OTEL_EXPORTER_OTLP_TIMEOUT="600")


def test_a_collector_that_is_away_is_said_once_in_the_log() -> None:
    said = run(SPANS, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9").stderr.splitlines()
    [line] = [json.loads(line) for line in said]
    assert (line["event"], line["level"], line["service"]) == ("collector_away", "warning", "evaluator")


def test_wrong_settings_are_logged_and_leave_traces_off(tmp_path: Path) -> None:
    said = run(SPANS, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_HEADERS_FILE=str(tmp_path / "none"))
    [line] = [json.loads(line) for line in said.stderr.splitlines()]
    assert line["event"] == "traces_off"


def test_spans_come_with_their_error_s_code_and_the_collector_s_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headers").write_text("authorization=Bearer%20abc\n")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS_FILE", str(tmp_path / "headers"))
    with collector() as heard:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", heard.url)
        traces.set_up("evaluator")
        parent = traces.traceparent("r", "score-001", 1)
        with pytest.raises(Retriable), traces.span("a", parent) as a:
            raise Retriable("s3_timeout", "s3://bucket/secret did not answer")
        with pytest.raises(Stopped), traces.span("b", a.traceparent, link=traces.traceparent("other")):
            raise Stopped("abort")
        with traces.span("c", "00-not-a-parent-01") as c, traces.span("d", c.traceparent) as d:
            assert (c.traceparent, d.traceparent) == (None, None)
        traces.close()
    spans = {span.name: span for span in heard.spans}
    assert set(spans) == {"a", "b"}
    assert {span.trace_id for span in spans.values()} == {traces.trace_id("r")}
    assert (spans["a"].parent, spans["a"].error) == (traces.span_id("r", "score-001", 1), "s3_timeout")
    assert (spans["b"].parent, spans["b"].error, spans["b"].attributes["reflux.stopped"]) == (spans["a"].span_id, None, "abort")
    assert spans["b"].links == ((traces.trace_id("other"), traces.span_id("other")),)
    assert "s3://" not in str(heard.spans)
    assert heard.headers[0]["authorization"] == "Bearer abc"


def test_a_log_line_of_a_run_names_its_trace() -> None:
    code = """
import structlog
from reflux import logs, traces
logs.set_up("control")
traces.set_up("control")
structlog.get_logger().info("moved", run_id="20260101-000000-abcdef")
structlog.get_logger().info("started")
"""
    said = [json.loads(line) for line in run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9").stderr.splitlines()]
    assert [line.get("trace_id") for line in said] == [traces.trace_id("20260101-000000-abcdef"), None]
    said = [json.loads(line) for line in run(code).stderr.splitlines()]
    assert [line.get("trace_id") for line in said] == [None, None]


def test_a_job_s_command_is_told_where_its_own_spans_hang(tmp_path: Path) -> None:
    parent = f"00-{traces.trace_id('r')}-{traces.span_id('r', 'run_job', 1)}-01"
    task = Task("r", RunJob(stage=Stage.TRAINING), stories.spec(), Artifacts(f"file://{tmp_path}"), traceparent=parent)
    assert variables(task, Place(tmp_path))["TRACEPARENT"] == parent
    task.traceparent = None
    assert "TRACEPARENT" not in variables(task, Place(tmp_path))
