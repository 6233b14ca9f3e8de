"""Uploads of training rows: every form that is taken, every line that is not; students and presets."""

import json
from pathlib import Path

import httpx
import pytest

from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.spec import check
from services.teacher_worker import uploads

ROW = {"messages": [{"role": "user", "content": "Write x."}, {"role": "assistant", "content": "int x;"}]}


def jsonl(*rows: object) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def post(client: Client, content: bytes, form: str = "application/jsonl", name: str = "rows") -> httpx.Response:
    return client.http.post("/v1/datasets", content=content, params={"name": name}, headers={"Content-Type": form})


def test_rows_are_stored_where_a_run_can_train_on_them(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "My rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + jsonl(ROW, "", ROW | {"domain": "tsn", "more": 1}, *[ROW] * 7))
    made = client.upload(file)
    assert (made.rows, len(made.preview), made.preview[1].domain) == (9, 5, "tsn")
    assert made.uri.endswith("/My-rows.jsonl")
    examples = list(uploads.examples(made.uri))
    assert [example.messages[1].content for example in examples] == ["int x;"] * 9
    assert check({"recipe": "finetune", "data": {"train": made.uri}})[0] is not None
    assert client.upload(file).uri == made.uri


def test_a_csv_of_prompts_or_of_messages(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('domain,prompt,completion,system,other\ntsn,Write x.,"int x;\nint ""y"";",Be short.,z\n,P,C,,\n')
    made = client.upload(file)
    first, second = uploads.examples(made.uri)
    assert [(m.role, m.content) for m in first.messages] == [
        ("system", "Be short."),
        ("user", "Write x."),
        ("assistant", 'int x;\nint "y";'),
    ]
    assert (first.domain, second.domain, len(second.messages)) == ("tsn", "generic", 2)
    cell = json.dumps(ROW["messages"]).replace('"', '""')
    file.write_text(f'messages\n"{cell}"\n')
    assert client.upload(file).rows == 1
    file.write_text("text\nSome words.\n")
    assert [m.role for m in client.upload(file).preview[0].messages] == ["assistant"]


@pytest.mark.parametrize(
    ("form", "content", "line", "word"),
    [
        ("application/jsonl", jsonl(ROW, "{", ROW), 2, "JSON"),
        ("application/jsonl", jsonl(ROW, [1]), 2, "object"),
        ("application/jsonl", jsonl(ROW, {"messages": []}), 2, "user turn"),
        ("application/jsonl", jsonl(ROW, {"prompt": "x"}), 2, "`completion`"),
        ("application/jsonl", jsonl(ROW, {"text": " "}), 2, "`text`"),
        ("application/jsonl", jsonl(ROW, {"txt": "x"}), 2, "`messages`"),
        ("application/jsonl", jsonl(ROW) + b'{"messages": "\xff\xfe"}\n', 2, ""),
        ("application/jsonl", jsonl(ROW) + b"\0" * 50, 2, "JSON"),
        ("application/jsonl", jsonl(ROW, '{"messages": [' + '"' * 1_000_001, ROW), 2, "longer than"),
        ("application/jsonl", jsonl('{"messages": [{"role": "user", "content": "\\ud800"}]}'), 1, ""),
        ("text/csv", b"question,answer\na,b\n", 1, "header"),
        ("text/csv", b"prompt,completion\nx,y\nx,\n", 3, "`completion`"),
        ("text/csv", b"prompt,completion\nx,y\n\xff,z\n", 3, "UTF-8"),
        ("text/csv", b'prompt,completion\nx,y\n"z,w\n', 3, ""),
        ("text/csv", b"messages\n[1\n", 2, "JSON"),
        ("text/csv", b"prompt,completion\n" + b"x" * 2_000_000 + b",y\n", 2, "longer than"),
    ],
)
def test_the_line_that_is_wrong_is_named(client: Client, form: str, content: bytes, line: int, word: str) -> None:
    answer = post(client, content, form)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_dataset")
    (problem,) = answer.json()["errors"]
    assert problem["field"] == f"line {line}"
    assert word in problem["message"]


def test_many_wrong_lines_are_counted_and_some_named(client: Client, control_plane: Stack) -> None:
    stored = sorted((control_plane.folder / "artifacts" / "datasets").glob("*"))
    answer = post(client, jsonl(ROW, *["{}"] * 100))
    assert answer.json()["detail"] == "100 lines are wrong."
    assert len(answer.json()["errors"]) == 20
    assert sorted((control_plane.folder / "artifacts" / "datasets").glob("*")) == stored


@pytest.mark.parametrize(
    ("content", "form", "name", "status"),
    [
        (b"", "application/jsonl", "rows", 422),
        (b"\n\n", "text/csv", "rows", 422),
        (jsonl(ROW), "application/json", "rows", 415),
        (jsonl(ROW), "application/jsonl", "../rows", 422),
    ],
)
def test_what_is_no_dataset(client: Client, content: bytes, form: str, name: str, status: int) -> None:
    assert post(client, content, form, name).status_code == status


def test_a_viewer_can_not_upload(client: Client) -> None:
    with Client(str(client.http.base_url), client.create_key("viewer", "reads").key) as viewer:
        assert post(viewer, jsonl(ROW)).status_code == 403


def test_a_dataset_may_be_larger_than_any_other_body(client: Client, control_plane: Stack, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x" * 1000}, {"role": "assistant", "content": "y" * 1000}]}
    file = tmp_path / "large.jsonl"
    file.write_bytes(jsonl(row) * 3000)
    assert client.upload(file).rows == 3000
    with pytest.raises(ApiError) as refusal:
        client.create({"name": "x" * 3_000_000})
    assert refusal.value.problem.status == 413


def test_students_and_presets(client: Client) -> None:
    models = {model.model: {need.preset: need.gpu_memory_gb for need in model.fits} for model in client.models()}
    granite = models["ibm-granite/granite-8b-code-instruct-128k"]
    assert granite["qlora"] < granite["lora"] < granite["full"]
    distil = {"data": {"sources": [{"uri": "file:///src"}]}}
    assert client.dry_run(distil).gpu_memory_gb == granite["qlora"]
    assert client.dry_run(distil | {"student": {"model": "of/our-own"}}).gpu_memory_gb is None
    presets = client.presets()
    methods = {preset.id for preset in presets if preset.kind == "method"}
    assert all(set(needs) == methods for needs in models.values())
    assert {"gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "granite-8b", "smollm2-135m"} == {p.id for p in presets} - methods
    for preset in presets:
        dry = client.dry_run(distil | {"preset": preset.id})
        assert dry.spec["student"]["method"] == preset.spec["student"]["method"]
        assert dry.gpu_memory_gb
