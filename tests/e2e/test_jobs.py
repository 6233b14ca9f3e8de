"""Jobs on the stack as users have it: the example of forecasts, a command that is stopped, and one whose worker is killed."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from reflux.cli.run import read_spec
from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.environment import ROOT
from tests.integration.by_hand import eventually

EXAMPLE = ROOT / "examples" / "forecasting"


@pytest.fixture(scope="module")
def forecasts(stack: Stack) -> RunView:
    with Client(stack.api_url, stack.keys["operator"]) as client:
        return client.wait(client.create(read_spec(EXAMPLE / "forecast.yaml")).id, 200)


@pytest.fixture
def folder(stack: Stack, forecasts: RunView) -> Path:
    return stack.folder / "artifacts" / "runs" / forecasts.id


def begun(client: Client, script: str, tmp_path: Path, **job: Any) -> RunView:
    """A run whose command has written its process id to tmp_path/pid-<attempt>."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(textwrap.dedent(script))
    given = {"command": ["python", "train.py", str(tmp_path)], "code_uri": f"file://{tmp_path}/code"} | job
    run = client.create({"name": "job", "recipe": "job", "job": given, "limits": {"min_disk_gb": 0.1}})
    eventually((tmp_path / "pid-1").exists, 60, "the command did not start")
    return run


def test_the_data_are_those_that_the_example_makes(tmp_path: Path) -> None:
    (tmp_path / "make_series.py").write_text((EXAMPLE / "make_series.py").read_text())
    subprocess.run([sys.executable, "make_series.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "data" / "monthly.csv").read_bytes() == (EXAMPLE / "data" / "monthly.csv").read_bytes()


def test_the_example_trains_and_its_forecasts_stand_in_the_report(forecasts: RunView, folder: Path) -> None:
    assert forecasts.outcome == "succeeded", forecasts.error
    report = (folder / "report.md").read_text()
    assert "![sensor_orders](outputs/sensor_orders.png)" in report
    assert (folder / "outputs" / "sensor_orders.png").read_bytes().startswith(b"\x89PNG")
    error = json.loads((folder / "outputs" / "metrics.json").read_text())["mase of AutoETS"]
    assert error < 0.8, "better than last year's values"
    assert f"| mase of AutoETS | {error:g} |" in report


def test_phases_counts_and_times_are_written_down(forecasts: RunView, folder: Path) -> None:
    state = folder / "system-state.json"
    eventually(lambda: json.loads(state.read_text())["status"] == "succeeded", 30, "the end was not projected")
    training = json.loads((folder / "training.json").read_text())
    phases = training["phases"]
    assert list(phases) == ["preflight", "data_sync", "training", "results_sync", "initialization", "cleanup"]
    assert {phase["status"] for phase in phases.values()} == {"pass"}
    assert phases["training"]["exit_code"] == 0
    assert phases["training"]["models_trained"] == ["AutoETS"]
    assert phases["data_sync"]["bytes_synced"] > 0
    assert phases["data_sync"]["retry_count"] == 0
    assert phases["results_sync"]["bytes_uploaded"] == sum(p.stat().st_size for p in (folder / "outputs").iterdir())
    assert phases["initialization"]["venv_hash"].startswith("sha256:")
    assert training["counts"]["files"] == 2
    times = json.loads(state.read_text())["timestamps"]
    assert times["data_sync"] < times["training_start"] < times["training_end"] < times["results_sync"]
    assert json.loads((folder / "cleanup_status.json").read_text())["manual_action_required"] is False


def test_lines_metrics_and_phases_are_told_while_it_runs(stack: Stack, forecasts: RunView) -> None:
    with Client(stack.api_url, stack.keys["operator"]) as client:
        events = client.events(forecasts.id, limit=1000).data
    told = [(e.body["phase"], e.body["phase_status"]) for e in events if e.type == "task_phase"]
    assert told[:4] == [("initialization", "begun"), ("initialization", "pass"), ("data_sync", "begun"), ("data_sync", "pass")]
    assert len(told) == len(set(told)) == 10
    log = (stack.folder / "artifacts" / "runs" / forecasts.id / "logs" / "run_job-1.log").read_text()
    assert "chosen: ETS(" in log


SLOW = """
    import os, sys, time
    attempt, checkpoint = os.environ["REFLUX_ATTEMPT"], os.environ["REFLUX_CHECKPOINTS"] + "/step"
    with open(os.environ["REFLUX_OUTPUTS"] + "/half.txt", "w") as half:
        half.write(open(checkpoint).read() if os.path.exists(checkpoint) else "from the beginning")
    if attempt == "1":
        open(checkpoint, "w").write("from step 5")
        open(f"{sys.argv[1]}/pid-1", "w").write(str(os.getpid()))
        time.sleep(120)
"""


def test_an_abort_ends_the_command_and_keeps_what_was_made(client: Client, stack: Stack, tmp_path: Path) -> None:
    run = begun(client, SLOW, tmp_path)
    client.abort(run.id)
    run = client.wait(run.id, 60)
    assert run.status == "aborted"
    folder = stack.folder / "artifacts" / "runs" / run.id
    assert (folder / "partial" / "attempt-1" / "half.txt").read_text() == "from the beginning"
    assert "half.txt" in (folder / "report.md").read_text()
    assert not Path(f"/proc/{(tmp_path / 'pid-1').read_text()}").exists()


def test_after_a_kill_of_its_worker_the_command_goes_on_from_its_checkpoint(client: Client, stack: Stack, tmp_path: Path) -> None:
    run = begun(client, SLOW, tmp_path, checkpoint_seconds=0.2)
    kept = stack.folder / "artifacts" / "runs" / run.id / "pieces" / "run_job" / "checkpoints" / "step"
    eventually(kept.exists, 30, "no checkpoint was stored")
    stack.kill("gpu_trainer-1", signal.SIGKILL)
    run = client.wait(run.id, 120)
    assert run.outcome == "succeeded", run.error
    assert (stack.folder / "artifacts" / "runs" / run.id / "outputs" / "half.txt").read_text() == "from step 5"


def test_a_command_that_failed_ends_the_run_with_words(client: Client, stack: Stack) -> None:
    job = {"command": ["python", "-c", "print('so far so good'); raise SystemExit(7)"]}
    run = client.wait(client.create({"name": "bad", "recipe": "job", "job": job, "limits": {"min_disk_gb": 0.1}}).id, 60)
    assert run.outcome == "failed"
    assert run.error is not None
    assert (run.error.code, "exit code 7" in run.error.message) == ("job_failed", True)
    log = stack.folder / "artifacts" / "runs" / run.id / "logs" / "run_job-1.log"
    assert log.read_text() == "so far so good\n"
