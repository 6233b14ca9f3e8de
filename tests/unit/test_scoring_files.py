"""Files scored without a server."""

import json
from pathlib import Path

import pytest

from reflux.errors import Terminal
from services.evaluator.files import score_file


def test_a_source_file_is_code_whatever_its_comments_hold(tmp_path: Path) -> None:
    file = tmp_path / "gate.c"
    file.write_text("/*\n```\n*/\nint next(int x) { return x + one; }\n")
    [scored] = score_file(file)
    assert scored.name == str(file)
    assert scored.verdict.syntax == 6
    assert [(item.line, item.column) for item in scored.verdict.evidence if item.rule == "error"] == [(4, 30)]


def test_the_suffix_says_the_language(tmp_path: Path) -> None:
    file = tmp_path / "gate.hpp"
    file.write_text("inline int next(int x) { return x + 1; }\n")
    assert score_file(file)[0].verdict.language == "c++"


def test_columns_are_characters(tmp_path: Path) -> None:
    file = tmp_path / "gate.c"
    file.write_text("int next(int x) { /* größer → */\treturn x + one; }\n", encoding="utf-8")
    [error] = [item for item in score_file(file)[0].verdict.evidence if item.rule == "error"]
    assert file.read_text()[(error.column or 0) - 1 :].startswith("one")


def test_rows_of_answers_keep_their_order(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt_id": f"p{n}", "prompt": "TSN", "text": f"int f(int x) {{ return x + {n}; }}", "sample": n} for n in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = list[int]()
    scored = score_file(file, tell=done.append)
    assert [row.name for row in scored] == [f"{file}: p{n}, sample {n}" for n in range(4)]
    assert done == [1, 2, 3, 4]


def test_latin_1_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "alt.c"
    file.write_bytes("/* größer */\nint f(int x) { return x + 1; }\n".encode("latin-1"))
    assert score_file(file)[0].verdict.compiles


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"prompt_id": "a"}\n', r"line 1: prompt: Field required"), ("\n{nonsense\n", "line 2"), ("", "no rows")],
)
def test_bad_rows_are_named_by_their_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(content)
    with pytest.raises(Terminal, match=message):
        score_file(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="can't be read"):
        score_file(tmp_path / "nothing.c")
    with pytest.raises(Terminal, match="can't be read"):
        score_file(tmp_path)
