"""`reflux data prepare`: a run's own dataset without a run; exit codes, JSON, what is shown, what is left alone."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflux.cli.histogram import lengths, ruler
from reflux.cli.scratch import beside
from reflux.commands import Prepare
from reflux.records import Example
from reflux.spec import RunSpec, Student
from reflux.stages import Stage
from services.teacher_worker.dataset import make
from tests.e2e.tiny import tiny_spec
from tests.teacher_tasks import task

REFLUX = [sys.executable, "-c", "from reflux.cli import main; main()"]
ENV = os.environ | {"COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def prepare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on the folder's spec.yaml, started there."""
    command = [*REFLUX, "data", "prepare", "spec.yaml", *arguments]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=120, check=False)


def write(folder: Path, spec: dict[str, Any]) -> RunSpec:
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return RunSpec.model_validate(spec)


def sources(folder: Path, functions: int = 3, files: int = 1) -> dict[str, Any]:
    """A spec without prompts or tokenizer, over functions that all differ."""
    (folder / "src").mkdir()
    for file in range(files):
        bodies = (f"int work_{file}_{i}(int a)\n{{\n    return a * {file * functions + i};\n}}\n" for i in range(functions))
        (folder / "src" / f"code_{file}.c").write_text("\n".join(bodies))
    return {
        "student": {"model": "/nowhere", "method": "lora"},
        "data": {"sources": [{"uri": f"file://{folder}/src"}]},
        "prompts": {"practice": 1, "dev": 0, "test": 0},
    }


def test_it_makes_what_a_run_would_and_shows_it(tmp_path: Path, student: Path) -> None:
    spec = write(tmp_path, tiny_spec(student))
    answer = prepare(tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    (tmp_path / "run").mkdir()
    made = make(spec, tmp_path / "run", task(tmp_path, Prepare(stage=Stage.PREPARING), spec))
    for name in ("train.jsonl", "val.jsonl", "prompts.jsonl"):
        assert (tmp_path / "dataset" / name).read_bytes() == (made.folder / name).read_bytes()

    said = " ".join(answer.stdout.split())
    assert "the dataset is in dataset" in said
    assert f"{made.train} training, {made.val} validation" in said
    assert "6 practice, 2 dev, 2 test" in said
    assert "Apache-2.0" in said
    assert "rows by tokens" in said
    assert "█" in said
    assert f"of {made.train + made.val} rows would be cut off at 512 tokens, training.max_length → Raise it" in said
    first = next(Example.model_validate_json(row) for row in (tmp_path / "dataset" / "train.jsonl").read_text().splitlines())
    assert first.messages[1].content.split("\n")[0][:60] in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 80


def test_json_has_every_number_and_one_object(tmp_path: Path, student: Path) -> None:
    spec = tiny_spec(student, training={"max_length": 300})
    write(tmp_path, spec)
    answer = prepare(tmp_path, "--json", "--out", "made/here", "--samples", "2")
    said = json.loads(answer.stdout)
    kept = json.loads((tmp_path / "made" / "here" / "dataset.json").read_text())
    assert said["folder"] == str(tmp_path / "made" / "here")
    assert {name: said[name] for name in kept} == kept
    rows = said["train"] + said["val"]
    assert (said["rows"], sum(said["licences"].values())) == ({"tsn": rows}, rows)
    assert [sample["domain"] for sample in said["samples"]] == ["tsn", "tsn"]

    measured = said["lengths"]
    over = sum(one["rows"] for one in measured["bins"] if one["up_to"] > 300)
    assert sum(one["rows"] for one in measured["bins"]) == rows
    assert (measured["unit"], measured["limit"], measured["over"]) == ("tokens", 300, over)
    assert over > 0


@pytest.mark.parametrize("limit", [7, 300, 512, 4097])
def test_the_limit_is_a_border_of_bins(limit: int) -> None:
    measured = lengths(Counter([1, *range(5, 20_000)]), "tokens", limit)
    borders = [one.up_to for one in measured.bins]
    assert limit in borders
    assert borders == sorted(borders)
    assert len(borders) <= 16
    assert measured.over == sum(one.rows for one in measured.bins if one.up_to > limit) == 19_999 - limit
    assert sum(one.rows for one in measured.bins) == 19_996
    assert (measured.median, measured.longest) == (10_001, 19_999)


def test_without_a_tokenizer_lengths_are_characters(tmp_path: Path) -> None:
    write(tmp_path, sources(tmp_path))
    answer = prepare(tmp_path)
    assert answer.returncode == 0
    assert "rows by characters" in answer.stdout
    assert "In characters: no tokenizer of /nowhere could be had here. There is no folder /nowhere." in answer.stdout
    assert "3 none stated" in answer.stdout


@pytest.mark.parametrize("model", ["nobody/nothing", "./broken", "package:none/here.gguf", "package:pytest/none.gguf"])
def test_why_there_is_no_tokenizer_is_said_in_a_line(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "broken" / "tokenizer.json").write_text('{"version": "1.0", "added_tokens": [], "model": {"type": "none"}}')
    scale = ruler(Student(model=model))
    assert scale.unit == "characters"
    assert scale.why_not_tokens
    assert "\n" not in scale.why_not_tokens


def test_uploaded_rows_are_a_dataset_too(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}!"}]} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    write(tmp_path, {"recipe": "finetune", "student": {"model": "/nowhere"}, "data": {"train": f"file://{tmp_path}/rows.jsonl"}})
    answer = prepare(tmp_path, "--json")
    said = json.loads(answer.stdout)
    assert (said["examples"], said["duplicates"], said["train"] + said["val"]) == (18, 9, 9)
    assert said["samples"][0]["prompt"].startswith("Say ")


def test_a_folder_that_it_did_not_make_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, sources(tmp_path))
    (tmp_path / "dataset").mkdir()
    assert prepare(tmp_path).returncode == 0, "an empty folder will do"
    assert prepare(tmp_path).returncode == 0, "its own may be written again"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "dataset.json").write_text("{}")
    for out in ("notes", "spec.yaml", "."):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        answer = prepare(tmp_path, "--out", out)
        assert (answer.returncode, "--out" in answer.stderr) == (2, True)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_sources_without_code_fail_with_what_to_do(tmp_path: Path) -> None:
    spec = sources(tmp_path, files=0)
    (tmp_path / "src" / "notes.txt").write_text("no code")
    write(tmp_path, spec)
    answer = prepare(tmp_path)
    assert answer.returncode == 1
    assert "empty_dataset: " in answer.stderr
    assert "  → Verify the data paths" in answer.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml", "src"]


def test_every_wrong_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("nme: x\ndata: {source: []}\ntraining: {max_length: long}\n")
    answer = prepare(tmp_path, "--json")
    assert (answer.returncode, answer.stdout) == (2, "")
    for field in ("nme", "data.source", "training.max_length"):
        assert f"  {field}: " in answer.stderr
    assert "Did you mean `data.sources`?" in answer.stderr
    (tmp_path / "spec.yaml").write_text("recipe: job\njob: {command: [make]}\n")
    assert prepare(tmp_path).returncode == 2
    assert prepare(tmp_path, "--samples", "-1").returncode == 2


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, sources(tmp_path, functions=40, files=500))
    command = [*REFLUX, "data", "prepare", "spec.yaml", "--out", "made/here"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line.startswith("reading files") for line in process.stdout)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml", "src"]


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from reflux.cli.scratch import beside\n"
    script += "with beside(Path(sys.argv[1])) as made:\n    (made / 'rows').touch(); print(made, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        left = Path(process.stdout.readline().strip())
        with beside(tmp_path) as one:
            assert set(tmp_path.iterdir()) == {left, one}
            process.kill()
            process.wait()
            with beside(tmp_path) as two:
                assert set(tmp_path.iterdir()) == {one, two}
    assert not any(tmp_path.iterdir())
