"""The stack as its users have it: one whole run by REST, looked at by CLI, and what bad input gets."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.tiny import EXAMPLES, rows, tiny_spec
from tests.integration.by_hand import eventually


@pytest.fixture
def artifacts(stack: Stack, calm_run: RunView) -> Path:
    return stack.folder / "artifacts" / "runs" / calm_run.id


def cli(stack: Stack, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"REFLUX_URL": stack.api_url, "REFLUX_KEY": key or stack.keys["operator"], "COLUMNS": "80"}
    command = [sys.executable, "-c", "from reflux.cli import main; main()", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_takes_every_stage_and_succeeds(client: Client, calm_run: RunView) -> None:
    assert (calm_run.outcome, calm_run.reason) == ("succeeded", "max epochs"), calm_run.error
    stages = list(dict.fromkeys(event.status for event in client.events(calm_run.id, limit=1000).data))
    assert stages == [
        "queued", "validating", "preparing", "teaching", "training", "refining", "evaluating", "exporting", "cleaning_up",
        "succeeded",
    ]  # fmt: skip


def test_epochs_have_all_their_figures(calm_run: RunView) -> None:
    first, second = calm_run.epochs
    assert first.requested == first.admitted + first.refused > 0
    assert second.requested == 0, "corrections of the last epoch would never be trained on"
    assert {"train", "generate", "score", "correct", "judge"} <= set(first.seconds)
    assert first.practice.count == 6
    assert first.dev is not None
    assert first.dev.count == 2
    assert calm_run.usage.calls == 6 + first.requested
    assert calm_run.usage.cost_usd > 0


def test_corrections_flow_into_the_next_epoch(artifacts: Path, calm_run: RunView) -> None:
    admitted = {row["prompt_id"]: row for row in rows(artifacts.parents[1], calm_run.id, "tasks/judge-001-*/attempt-*/*.jsonl")}
    assert len(admitted) == calm_run.epochs[0].admitted
    for row in admitted.values():
        assert row["verdict"]["overall"] > row["attempt_verdict"]["overall"]


def test_test_prompts_are_never_practised(artifacts: Path, calm_run: RunView) -> None:
    sets: dict[str, list[str]] = {}
    for prompt in rows(artifacts.parents[1], calm_run.id, "tasks/prepare/attempt-*/prompts.jsonl"):
        sets.setdefault(prompt["set"], []).append(prompt["text"])
    assert {name: len(texts) for name, texts in sets.items()} == {"practice": 6, "dev": 2, "test": 2}
    train = (artifacts / "tasks/prepare/attempt-1/train.jsonl").read_text()
    bought = " ".join(path.read_text() for path in artifacts.glob("pieces/teacher/*/*.json"))
    for text in sets["dev"] + sets["test"]:
        assert json.dumps(text) not in train
        assert json.dumps(text) not in bought


def test_everything_is_left_in_the_run_s_folder(artifacts: Path) -> None:
    weights = safetensors.numpy.load_file(artifacts / "adapter" / "adapter_model.safetensors")
    assert any(abs(tensor).max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert (artifacts / "adapter" / "tokenizer.json").exists()
    state = artifacts / "system-state.json"
    # Control draws the files from Postgres a moment after each transition.
    eventually(lambda: json.loads(state.read_text())["status"] == "succeeded", 30, "the end was not projected")
    read: dict[str, Any] = {name: json.loads((artifacts / name).read_text()) for name in (
        "spec.json", "system-state.json", "training.json", "training_summary.json", "cleanup_status.json")}  # fmt: skip
    assert read["system-state.json"]["outcome"] == "succeeded"
    assert read["training_summary.json"]["outcome"] == "succeeded"
    assert len(read["training_summary.json"]["epochs"]) == 2
    assert read["training_summary.json"]["teacher"] == "recorded answers"
    assert {phase["status"] for phase in read["training.json"]["phases"].values()} == {"pass"}
    assert read["cleanup_status.json"]["manual_action_required"] is False
    assert read["spec.json"]["teacher"]["tries"] == 5, "every default is written down"
    report = (artifacts / "report.md").read_text()
    assert "test prompts" in report
    checkpoints = [path for path in artifacts.glob("pieces/train-*/**/*") if path.is_file()]
    assert not checkpoints, "those of finished trainings are collected"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"student": {"model": "/nowhere/at/all"}}, "model_not_found"),
        ({"teacher": {"endpoint_url": "http://127.0.0.1:9"}}, "preflight_failed"),
        ({"data": {"sources": [{"uri": "file://EMPTY"}]}}, "empty_dataset"),
        ({"student": {"device": "cuda"}}, "gpu_missing"),
    ],
    ids=["no model", "no teacher", "no sources", "no GPU"],
)
def test_what_can_not_work_fails_in_seconds_with_a_hint(
    client: Client, student: Path, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    change = json.loads(json.dumps(change).replace("EMPTY", str(tmp_path)))
    run = client.wait(client.create(tiny_spec(student, **change)).id, 120)
    assert (run.status, run.outcome) == ("failed", "failed")
    assert run.error is not None
    assert run.error.code == code
    assert run.error.hint
    types = [event.type for event in client.events(run.id).data]
    assert types[-1] == "cleaned_up", "through cleanup"


def test_the_cli_shows_runs(stack: Stack, calm_run: RunView) -> None:
    listed = cli(stack, "run", "list")
    assert calm_run.id in listed.stdout
    shown = cli(stack, "run", "show", calm_run.id)
    assert "has succeeded" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines() if "/" not in line) <= 80
    watched = cli(stack, "run", "watch", calm_run.id)
    assert watched.returncode == 0
    assert "the teacher answered 3 prompts" in watched.stdout
    assert json.loads(cli(stack, "run", "show", calm_run.id, "--json").stdout)["id"] == calm_run.id


def test_nothing_is_left_to_clean_up(stack: Stack, calm_run: RunView) -> None:
    checked = cli(stack, "verify-cleanup", calm_run.id)
    assert (checked.returncode, checked.stdout) == (0, "1 runs checked, 0 with something left to do\n")
    every = json.loads(cli(stack, "verify-cleanup", "--json").stdout)
    assert {"run_id": calm_run.id, "outcome": "succeeded", "to_do": []} in every


def test_what_could_not_be_cleaned_up_is_named(stack: Stack, client: Client, artifacts: Path, calm_run: RunView) -> None:
    file = artifacts / "cleanup_status.json"
    written = file.read_text()
    status = json.loads(written)
    status["resources"]["artifacts"] |= {"failed": 3, "errors": {"runs/r/tasks/x": "denied"}}
    file.write_text(json.dumps(status))
    try:
        checked = cli(stack, "verify-cleanup", calm_run.id)
    finally:
        file.write_text(written)
    assert checked.returncode == 1
    for said in ("Delete runs/r/tasks/x", "Delete 2 more objects"):
        assert said in checked.stdout


def test_the_cli_says_what_is_wrong(stack: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed")
    assert cli(stack, "run", "start", str(broken)).returncode == 2
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\ntraning: {}\ndata: {sources: [{uri: 'file:///x'}]}")
    refused = cli(stack, "run", "start", str(wrong))
    assert refused.returncode == 1
    assert "traning: there is no such field" in refused.stderr
    assert "Did you mean `training`?" in refused.stderr
    assert cli(stack, "run", "show", "nothing").stderr.startswith("There is no run nothing")
    assert cli(stack, "run", "list", key="nonsense").returncode == 1
    for answer in (refused, cli(stack, "run", "show", "nothing")):
        assert "Traceback" not in answer.stderr


def test_an_abort_frees_the_trainer_and_keeps_what_was_made(client: Client, stack: Stack, student: Path) -> None:
    spec = tiny_spec(student, training={"max_steps": 100000})
    run = client.create(spec)
    for event in client.follow(run.id):
        if event.type == "task_claimed" and event.body["key"] == "train-001":
            break
    assert client.abort(run.id).status in ("aborting", "cleaning_up")
    run = client.wait(run.id, 120)
    assert run.status == "aborted"
    assert not [worker for worker in client.workers() if worker.doing]
    assert (stack.folder / "artifacts" / "runs" / run.id / "report.md").exists()


def test_the_demo_s_spec_is_taken(client: Client) -> None:
    from reflux.cli.spec_file import read_spec

    run = client.create(read_spec(EXAMPLES / "demo.yaml"))
    client.abort(run.id)
    assert client.wait(run.id, 120).status == "aborted"
