"""Preflight: all that is wrong is told at once, each with what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from reflux.commands import Preflight
from reflux.errors import Terminal
from reflux.events import PreflightPassed
from reflux.stages import Stage
from services.teacher_worker.check import Check
from services.teacher_worker.preflight import checks, preflight
from tests.teacher_tasks import EXAMPLES, spec, stand_in, task, write_jsonl

CPU = {"cuda": False, "disk_free_gb": 100.0}
A100 = {"cuda": True, "gpu": "NVIDIA A100-SXM4-80GB", "gpu_memory_gb": 80, "tf32": True, "cudnn": 90100, "disk_free_gb": 100.0}


def worker(service: str, alive: bool = True, **capabilities: Any) -> dict[str, Any]:
    return {"service": service, "name": f"{service}-1", "alive": alive, "capabilities": capabilities}


WORKERS = [worker("gpu_trainer", **CPU), worker("evaluator", gcc="12.2")]


def sections(folder: Path, **more: Any) -> dict[str, Any]:
    """A spec with nothing wrong, but for what `more` changes."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return {
        "student": {"model": str(model), "method": "lora", "device": "cpu"},
        "data": {"sources": [{"uri": f"file://{EXAMPLES}/corpus/tsn", "domain": "tsn"}]},
        "teacher": {"provider": "recorded", "endpoint_url": "http://127.0.0.1:9", "skip_check": True},
    } | more


def run(folder: Path, workers: list[dict[str, Any]] | None = None, **more: Any) -> PreflightPassed:
    found = WORKERS if workers is None else workers
    return preflight(task(folder, Preflight(stage=Stage.VALIDATING), spec(**sections(folder, **more)), workers=lambda: found))


def one(folder: Path, name: str, workers: list[dict[str, Any]] | None = None, **more: Any) -> Check:
    found = WORKERS if workers is None else workers
    hand = task(folder, Preflight(stage=Stage.VALIDATING), spec(**sections(folder, **more)))
    named = [check for check in checks(hand.spec, hand.artifacts, lambda: found) if check.name.startswith(name)]
    assert len(named) == 1, named
    return named[0]


def test_all_is_well(tmp_path: Path) -> None:
    teacher_file = EXAMPLES / "teacher.jsonl"
    with stand_in(teacher_file) as teacher:
        fields = {"provider": "recorded", "endpoint_url": teacher.url}
        event = run(tmp_path, teacher=fields, export={"output_uri": f"file://{tmp_path}/out"})
        assert len(teacher.calls(200)) == 1
    assert event.warnings == ()
    assert list((tmp_path / "out").iterdir()) == [], "the probe is gone"
    assert list((tmp_path / "store").iterdir()) == []


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Terminal) as error:
        run(
            tmp_path,
            [worker("evaluator", gcc="12")],
            student={"model": "package:no-such-package/x.gguf", "method": "lora"},
            data={"sources": [{"uri": f"file://{tmp_path}/gone"}]},
            prompts={"uri": f"file://{tmp_path}/gone/p.jsonl"},
            export={"output_uri": f"file://{tmp_path}/file/out"},
            limits={"min_disk_gb": 10**9},
        )
    assert error.value.code == "preflight_failed"
    said = error.value.message
    assert "Failed checks: 6." in said
    for part in (
        "there is no such folder",
        "There is no prompts file",
        "output target",
        "no-such-package",
        "gpu_missing"[:3],
        "disk",
    ):
        assert part in said
    assert "Verify the data paths" in said, "each says what to do"


def test_a_single_failure_has_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(Terminal) as error:
        run(tmp_path, data={"sources": [{"uri": f"file://{tmp_path}/gone"}]})
    assert error.value.code == "empty_dataset"
    with pytest.raises(Terminal) as error:
        run(tmp_path, limits={"min_disk_gb": 10**9})
    assert error.value.code == "preflight_failed", "disk_low may be tried again, a preflight may not"


@pytest.mark.parametrize(("behaviour", "code"), [({"deny": True}, "access_denied"), ({"unknown_model": True}, "model_not_found")])
def test_a_teacher_that_refuses(tmp_path: Path, behaviour: dict[str, Any], code: str) -> None:
    with stand_in() as teacher:
        teacher.behave(**behaviour)
        check = one(tmp_path, "teacher", teacher={"provider": "recorded", "endpoint_url": teacher.url})
    assert (check.status, check.code) == ("failed", code)
    assert check.hint


def test_a_teacher_that_is_not_there(tmp_path: Path) -> None:
    check = one(tmp_path, "teacher", teacher={"provider": "recorded", "endpoint_url": "http://127.0.0.1:9"})
    assert (check.status, check.code) == ("failed", "teacher_unreachable")


def test_a_recorded_teacher_without_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFLUX_TEACHER_URL", raising=False)
    check = one(tmp_path, "teacher", teacher={"provider": "recorded"})
    assert (check.status, check.code) == ("failed", "invalid_spec")


def test_credentials_of_a_hosted_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "BEDROCK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    hosted = {"provider": "bedrock", "skip_check": True}
    check = one(tmp_path, "credentials", teacher=hosted)
    assert (check.status, check.code) == ("failed", "no_credentials")
    assert (
        one(tmp_path, "credentials", teacher=hosted | {"profile": "nobody"}).message
        == "The config profile (nobody) could not be found"
    )
    (tmp_path / "keys").write_text("[company]\naws_access_key_id = x\naws_secret_access_key = y\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    assert one(tmp_path, "credentials", teacher=hosted | {"profile": "company"}).status == "ok"
    monkeypatch.setenv("BEDROCK_API_KEY", "k")
    assert one(tmp_path, "credentials", teacher=hosted).status == "ok"


def test_the_key_of_an_openai_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    hosted = {"provider": "openai", "model": "m", "skip_check": True}
    check = one(tmp_path, "credentials", teacher=hosted)
    assert (check.status, check.code) == ("failed", "no_credentials")
    assert one(tmp_path, "credentials", teacher=hosted | {"endpoint_url": "http://127.0.0.1:9/v1"}).status == "ok"
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert one(tmp_path, "credentials", teacher=hosted).status == "ok"


def test_terms_and_prices_of_a_teacher_that_is_asked(tmp_path: Path) -> None:
    priced = {"input_usd_per_million": 0, "output_usd_per_million": 0}
    hosted = {"provider": "openai", "model": "m", "endpoint_url": "http://127.0.0.1:9/v1", "skip_check": True}
    told = "terms of the teacher: the provider's terms may forbid training on its answers."
    assert any(warning.startswith(told) for warning in run(tmp_path, teacher=hosted).warnings)
    assert one(tmp_path, "terms", teacher=hosted).hint == "Read them, then set teacher.terms_acknowledged: true."
    assert one(tmp_path, "terms", teacher=hosted | {"terms_acknowledged": True}).status == "ok"
    assert one(tmp_path, "price", teacher=hosted).status == "warning"
    assert one(tmp_path, "price", teacher=hosted | priced).status == "ok"
    assert one(tmp_path, "price", teacher=hosted | {"model": "claude-sonnet-4-5"}).status == "ok"
    check = one(tmp_path, "price", teacher=hosted, limits={"max_teacher_cost_usd": 5})
    assert (check.status, check.code) == ("failed", "invalid_spec")
    assert one(tmp_path, "price", teacher=hosted | priced, limits={"max_teacher_cost_usd": 5}).status == "ok"


def test_a_file_of_answers_is_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "p", "answer": "a"}])
    assert run(tmp_path, teacher={"provider": "recorded", "answers_uri": file}).warnings == ()
    check = one(tmp_path, "teacher", teacher={"provider": "recorded", "answers_uri": f"file://{tmp_path}/gone.jsonl"})
    assert (check.status, check.code) == ("failed", "empty_dataset")
    assert "teacher.answers_uri" in check.hint
    wrong = write_jsonl(tmp_path / "wrong.jsonl", [{"prompt": "p", "answer": "a"}, {"prompt": "p"}])
    check = one(tmp_path, "teacher", teacher={"provider": "recorded", "answers_uri": wrong})
    assert (check.status, check.code) == ("failed", "invalid_dataset")
    assert "line 2" in check.message


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ({}, ""),
        ({"unauthorized": True}, "no_credentials"),
        ({"deny": True}, "access_denied"),
        ({"unknown_model": True}, "model_not_found"),
        ({"throttle": 1}, "teacher_throttled"),
        ({"malformed": 1}, "teacher_stream_error"),
    ],
    ids=str,
)
def test_each_teacher_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, Any], code: str
) -> None:
    key = "sk-planted-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("BEDROCK_API_KEY", key)
    with stand_in() as teacher:
        teacher.behave(**behaviour, telltale=True)
        for fields in (
            {"provider": "openai", "model": "m", "endpoint_url": f"{teacher.url}/v1"},
            {"provider": "bedrock", "endpoint_url": teacher.url},
            {"provider": "bedrock", "endpoint_url": teacher.url, "api": "invoke"},
        ):
            check = one(tmp_path, "teacher", teacher=fields)
            assert (check.status, check.code) == (("failed", code) if code else ("ok", "preflight_failed"))
            assert bool(check.hint) == bool(code)
            assert key not in f"{check}"


def test_a_test_prompt_that_is_refused(tmp_path: Path) -> None:
    with stand_in() as teacher:
        hosted = {"provider": "openai", "model": "m", "endpoint_url": f"{teacher.url}/v1"}
        more = {"prompts": {"system": "Be brief."}}
        teacher.behave(body={"choices": [{"message": {}, "finish_reason": "content_filter"}]})
        check = one(tmp_path, "teacher", teacher=hosted, **more)
    assert (check.status, check.code) == ("failed", "invalid_spec")
    assert "teacher.temperature" in check.hint


@pytest.mark.parametrize(
    ("workers", "student", "status", "code"),
    [
        ([worker("evaluator", gcc="12")], {}, "failed", "gpu_missing"),
        ([worker("gpu_trainer", **CPU)], {"device": "cuda"}, "failed", "gpu_missing"),
        ([worker("gpu_trainer", **CPU)], {"method": "qlora", "device": "auto"}, "failed", "gpu_missing"),
        ([worker("gpu_trainer", **CPU)], {"method": "qlora", "device": "cpu"}, "ok", "preflight_failed"),
        ([worker("gpu_trainer", **CPU)], {"method": "lora", "device": "auto"}, "warning", "preflight_failed"),
        ([worker("gpu_trainer", **A100)], {"method": "qlora", "device": "cuda"}, "ok", "preflight_failed"),
        ([worker("gpu_trainer", **A100 | {"gpu": "Tesla T4"})], {}, "warning", "preflight_failed"),
        ([worker("gpu_trainer", **A100 | {"tf32": False})], {}, "warning", "preflight_failed"),
    ],
)
def test_the_gpu(tmp_path: Path, workers: list[dict[str, Any]], student: dict[str, Any], status: str, code: str) -> None:
    given = sections(tmp_path)["student"] | student
    name = "GPU" if workers[0]["service"] == "gpu_trainer" else "gpu_trainer"
    check = one(tmp_path, name, workers, student=given)
    assert (check.status, check.code) == (status, code)


def test_a_missing_compiler_is_a_warning(tmp_path: Path) -> None:
    check = one(tmp_path, "evaluators", [worker("gpu_trainer", **CPU), worker("evaluator", gcc="")])
    assert check.status == "warning"
    assert "heuristic" in check.message


def test_unknown_workers_are_no_failure(tmp_path: Path) -> None:
    warnings = run(tmp_path, [], limits={"min_disk_gb": 0}).warnings
    assert warnings == ("teacher: not asked, as teacher.skip_check says.",)


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("package:ruff/no/such.gguf", "failed"),
        ("package:pytest/pytest/__init__.py", "ok"),
        ("/no/such/folder", "failed"),
    ],
)
def test_the_student_is_looked_for(tmp_path: Path, model: str, status: str) -> None:
    check = one(tmp_path, "student", student={"model": model, "method": "lora", "device": "cpu"})
    assert check.status == status
    assert check.code == ("model_not_found" if status == "failed" else "preflight_failed")


def test_a_student_that_only_a_far_worker_has_is_a_warning(tmp_path: Path) -> None:
    far = worker("gpu_trainer", **CPU) | {"name": "gpu_trainer@another-machine-1a"}
    check = one(tmp_path, "student", [far], student={"model": "/no/such/folder", "method": "lora"})
    assert check.status == "warning"


def test_a_hub_that_is_away_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    student = {"model": "someone/something", "method": "lora", "device": "cpu"}
    assert one(tmp_path, "student", student=student).status == "warning"
    assert one(tmp_path, "HF_TOKEN", student=student).status == "warning"


def test_uploaded_rows_are_read_before_the_gpu_waits(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "up.jsonl", [{"messages": []}])
    check = one(tmp_path, "rows", recipe="finetune", data={"train": file})
    assert (check.status, check.code) == ("failed", "invalid_dataset")
    assert "line 1" in check.message


GRANITE = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 36,
    "intermediate_size": 14336,
    "vocab_size": 49152,
    "max_position_embeddings": 128000,
}


@pytest.mark.parametrize(
    ("gpu_gb", "method", "status", "hint"),
    [
        (80, "qlora", "ok", ""),
        (24, "qlora", "ok", ""),
        (18, "lora", "warning", "student.method: qlora"),
        (8, "lora", "failed", ""),
    ],
)
def test_what_does_not_fit_into_the_gpu_is_told_before_the_hours_begin(
    tmp_path: Path, gpu_gb: int, method: str, status: str, hint: str
) -> None:
    folder = tmp_path / "granite"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GRANITE))
    gpu = worker("gpu_trainer", **A100 | {"gpu_memory_gb": gpu_gb, "bf16": True})
    check = one(tmp_path, "memory", [gpu], student={"model": str(folder), "method": method})
    assert check.status == status
    assert f"of {gpu_gb} GB" in check.message
    assert hint in check.hint


def test_sizes_that_nobody_knows_are_not_judged(tmp_path: Path) -> None:
    hand = task(tmp_path, Preflight(stage=Stage.VALIDATING), spec(**sections(tmp_path)))
    assert "memory" not in [check.name for check in checks(hand.spec, hand.artifacts, lambda: WORKERS)]
