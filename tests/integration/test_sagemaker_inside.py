"""A job's command inside a SageMaker training job: channels, hyperparameters and folders as SageMaker's own images show them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.gpu_trainer import job, sagemaker
from tests.environment import ROOT
from tests.integration.jobs import failing, phases, task

TELLS = """
    import json, os, pathlib
    out = pathlib.Path(os.environ["SM_MODEL_DIR"])
    told = {name: value for name, value in os.environ.items() if name.startswith(("SM_", "REFLUX_", "TRAINING_"))}
    told["rows"] = (pathlib.Path(os.environ["SM_CHANNEL_TRAINING"]) / "rows.txt").read_text()
    (out / "told.json").write_text(json.dumps(told))
"""


@pytest.fixture
def opt_ml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/opt/ml of a training job with one channel."""
    root = tmp_path / "opt" / "ml"
    for name in ("input/config", "input/data/training", "model", "output"):
        (root / name).mkdir(parents=True)
    (root / "input/data/training/rows.txt").write_text("three rows")
    config: dict[str, Any] = {
        "inputdataconfig": {"training": {"TrainingInputMode": "File"}},
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"]},
    }
    for name, content in config.items():
        (root / "input/config" / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setenv("REFLUX_SAGEMAKER_ROOT", str(root))
    monkeypatch.setenv("TRAINING_JOB_NAME", "reflux-r1-1")
    return root


def test_a_command_finds_what_its_script_for_sagemaker_looks_for(opt_ml: Path, tmp_path: Path, jobs_allowed: None) -> None:
    hand = task(tmp_path, TELLS, inputs_uri="s3://nobody-asks-for-this/data", parameters={"learning-rate": 0.1, "name": "a"})
    done = job.run_job(hand)
    told = hand.artifacts.get_json(f"{done.outputs_path}/told.json")
    assert told["rows"] == "three rows", "SageMaker has copied it; nobody does so again"
    assert told["SM_CHANNEL_TRAINING"] == told["REFLUX_INPUTS"] == str(opt_ml / "input/data/training")
    assert told["SM_MODEL_DIR"] == told["REFLUX_OUTPUTS"] == str(opt_ml / "model")
    assert (told["SM_HP_LEARNING_RATE"], told["SM_HP_NAME"], told["SM_CHANNELS"]) == ("0.1", "a", '["training"]')
    assert json.loads(told["SM_HPS"]) == {"learning-rate": 0.1, "name": "a"}
    environment = json.loads(told["SM_TRAINING_ENV"])
    assert environment["channel_input_dirs"] == {"training": told["SM_CHANNEL_TRAINING"]}
    assert (environment["hosts"], environment["job_name"]) == (["algo-1"], "reflux-r1-1")
    assert (told["SM_CURRENT_HOST"], told["SM_HOSTS"], told["TRAINING_JOB_NAME"]) == ("algo-1", '["algo-1"]', "reflux-r1-1")
    assert told["SM_NUM_GPUS"].isdecimal()
    assert (opt_ml / "model/told.json").exists(), "SageMaker makes model.tar.gz of it"
    [synced] = [p["facts"] for p in hand.drain()["phases"] if (p["name"], p["status"]) == ("data_sync", "pass")]
    assert (synced["files_synced"], synced["bytes_synced"]) == (
        2,
        len("three rows") + (tmp_path / "code/train.py").stat().st_size,
    )


def test_another_attempt_finds_no_outputs_of_the_first(opt_ml: Path, tmp_path: Path, jobs_allowed: None) -> None:
    (opt_ml / "model/old").mkdir()
    (opt_ml / "model/old/weights").write_text("half")
    hand = task(tmp_path, "import os; print(os.listdir(os.environ['SM_MODEL_DIR']))", attempt=2)
    assert failing(hand).code == "job_failed"
    assert any("[]" in line["line"] for line in hand.drain()["logs"])
    assert (opt_ml / "input/data/training/rows.txt").exists(), "what SageMaker has copied stays"


def test_a_model_folder_that_is_not_ours_to_write_is_left_alone(opt_ml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert set(sagemaker.folders()) == {"inputs"}


def test_elsewhere_nothing_of_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs_allowed: None) -> None:
    monkeypatch.setenv("REFLUX_SAGEMAKER_ROOT", str(tmp_path / "none"))
    script = "import os; open(os.environ['SM_MODEL_DIR'] + '/told', 'w').write(os.environ.get('SM_TRAINING_ENV', 'local'))"
    hand = task(tmp_path, script)
    done = job.run_job(hand)
    assert hand.artifacts.get(f"{done.outputs_path}/told") == b"local"
    assert phases(hand)["training"] == "pass"


def test_what_ends_the_worker_is_the_job_s_reason(opt_ml: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "REFLUX_SAGEMAKER_ROOT": str(opt_ml), "REFLUX_POLL": "1"}
    command = [sys.executable, "-m", "services.gpu_trainer"]
    assert subprocess.run(command, env=env, capture_output=True, timeout=60, check=False).returncode != 0
    assert "REFLUX_API_URL is not set" in (opt_ml / "output/failure").read_text()


def test_a_defect_is_the_job_s_reason_too(opt_ml: Path) -> None:
    with pytest.raises(ValueError, match="broken"), sagemaker.telling():
        raise ValueError("broken" + "x" * 2000)
    told = (opt_ml / "output/failure").read_text()
    assert (told[:17], len(told)) == ("ValueError: broke", 1024)
