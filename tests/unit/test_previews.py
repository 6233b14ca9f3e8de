"""What a look at data shows, in folders and a real bucket: some of what is there, what is wrong, and nothing that is secret."""

import os
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.errors import RefluxError
from reflux.previews import Holds, LinesPreview, PreviewRequest, SourcesPreview
from services.teacher_worker import previews
from services.teacher_worker.preflight import checks
from tests.s3 import BUCKET, S3
from tests.teacher_tasks import spec

KEY = "AKIA" + "Q" * 16
TOKEN = "hf_" + "a1B2" * 9
EXCHANGE = '{"prompt": "Ask.", "completion": "int x;"}\n'


def sources(uri: str, seconds: float = previews.SECONDS) -> SourcesPreview:
    found = previews.look(PreviewRequest(uri=uri, holds="sources"), seconds)
    assert isinstance(found, SourcesPreview)
    return found


def lines(uri: str, holds: Holds = "rows") -> LinesPreview:
    found = previews.look(PreviewRequest(uri=uri, holds=holds))
    assert isinstance(found, LinesPreview)
    return found


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    files = {"b.c": "int b;\n", "a/a.c": "int a;\n" * 50, "a/a.h": "", "a/readme.md": "#", "a/z.CPP": "int z;", "0.c": "\0\1"}
    for name, text in files.items():
        file = tmp_path / "corpus" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "corpus"


def test_source_files_are_counted_named_and_one_is_begun(corpus: Path) -> None:
    found = sources(f"file://{corpus}")
    assert (found.suffixes, found.others, found.complete) == ({".c": 3, ".h": 1, ".cpp": 1}, 1, True)
    assert found.paths == ["0.c", "a/a.c", "a/a.h", "a/z.CPP", "b.c"]
    assert found.first is not None
    assert found.first.path == "a/a.c", "0.c is no text"
    assert found.first.text.splitlines() == ["int a;"] * previews.FILE_LINES + ["…"]


def test_no_more_is_looked_at_than_there_is_time_for(corpus: Path) -> None:
    found = sources(f"file://{corpus}", seconds=0)
    assert (sum(found.suffixes.values()), found.complete) == (1, False)
    rows = corpus / "rows.jsonl"
    rows.write_text(EXCHANGE * (previews.CHECKED + 1))
    looked = lines(f"file://{rows}")
    assert (looked.checked, looked.complete, len(looked.rows)) == (previews.CHECKED, False, previews.ROWS)


def test_a_name_that_is_no_text_is_shown_all_the_same(corpus: Path) -> None:
    (corpus / os.fsdecode(b"0\xff.c")).write_text("int x;")
    found = sources(f"file://{corpus}")
    assert "0?.c" in found.paths
    assert SourcesPreview.model_validate_json(found.model_dump_json()) == found


def test_a_bucket_is_looked_into(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = Artifacts(f"s3://{BUCKET}/previewed")
    store.put("tsn/gate.c", b"int gate;\n")
    store.put("rows.csv", b"prompt,completion\nAsk.,int x;\n,none\n")
    found = sources(f"s3://{BUCKET}/previewed/")
    assert (found.suffixes, found.others, found.paths) == ({".c": 1}, 1, ["tsn/gate.c"])
    assert found.first is not None
    assert found.first.text == "int gate;\n"
    looked = lines(f"s3://{BUCKET}/previewed/rows.csv")
    assert (looked.form, looked.checked, looked.errors) == ("csv", 2, 1)
    for uri, code in ((f"s3://{BUCKET}/nothing/", "empty_dataset"), ("s3://no-such-bucket/x/", "no_such_bucket")):
        with pytest.raises(RefluxError) as error:
            sources(uri)
        assert error.value.code == code


def test_rows_are_shown_as_turns_and_wrong_lines_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    chat = '{"messages": [{"role": "user", "content": "Ask\\u0000"}, {"role": "assistant", "content": "x"}], "domain": "tsn"}\n'
    file.write_text("\n" + chat + "{\n" + EXCHANGE * 5 + '{"prompt": "Ask."}\n')
    found = lines(f"file://{file}")
    assert (found.form, found.checked, found.errors, found.complete) == ("jsonl", 8, 2, True)
    assert [wrong.field for wrong in found.wrong] == ["line 3", "line 9"]
    assert "`completion` is empty" in found.wrong[1].message
    first, second, _ = found.rows
    assert [(turn.role, turn.content) for turn in first.messages] == [
        ("user", "Ask\N{REPLACEMENT CHARACTER}"),
        ("assistant", "x"),
    ]
    assert (first.domain, second.domain) == ("tsn", "generic")


def test_prompts_are_rows_of_one_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "Write x.", "id": "a"}\n{"prompt": "Write y.", "domain": "avb"}\n{"text": "z", "id": "a"}\n')
    found = lines(f"file://{file}", "prompts")
    assert [(row.messages[0].role, row.messages[0].content, row.domain) for row in found.rows] == [
        ("user", "Write x.", "generic"),
        ("user", "Write y.", "avb"),
    ]
    assert [(wrong.field, wrong.message) for wrong in found.wrong] == [("line 3", "the id a stands in line 1 already")]


def test_secrets_are_struck_out(tmp_path: Path, corpus: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "My key is {KEY}", "completion": "{"x" * 3000}", "domain": "{TOKEN}"}}\n')
    (corpus / "0.c").write_text(f'const char *token = "{TOKEN}";\n')
    (corpus / f"{KEY}.c").write_text("int x;")
    for found, blots in ((lines(f"file://{file}"), 2), (sources(f"file://{corpus}"), 2)):
        told = found.model_dump_json()
        assert KEY not in told
        assert TOKEN not in told
        assert found.blots == blots
        assert len(told) < 3000


@pytest.mark.parametrize(
    ("holds", "place"),
    [("sources", "gone/"), ("sources", "empty/"), ("rows", "gone/x.jsonl"), ("rows", "empty/x.csv"), ("rows", "none.jsonl"),
     ("prompts", "gone/x.jsonl"), ("prompts", "none.jsonl"), ("rows", "blank.jsonl")],
)  # fmt: skip
def test_where_there_is_nothing_it_says_what_preflight_says(tmp_path: Path, holds: Holds, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.jsonl").write_text("\n\n")
    uri = f"file://{tmp_path}/{place}"
    with pytest.raises(RefluxError) as error:
        previews.look(PreviewRequest(uri=uri, holds=holds))
    sections = {
        "sources": {"data": {"sources": [{"uri": uri}]}},
        "rows": {"recipe": "finetune", "data": {"train": uri}},
        "prompts": {"prompts": {"uri": uri}},
    }
    found = checks(spec(**sections[holds]), Artifacts(f"file://{tmp_path}/store"), list)
    check = next(check for check in found if check.status == "failed" and check.name.startswith((holds[:6], "prompts")))
    assert error.value.message.removeprefix(f"{uri}: ") == check.message
    assert (error.value.code, error.value.hint) == (check.code, check.hint)
    assert not (tmp_path / "gone").exists(), "looking makes nothing"
