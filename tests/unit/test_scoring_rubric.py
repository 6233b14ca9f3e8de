"""The rubric: its documentation, its overrides, and what a team may add."""

import re
from pathlib import Path

import pytest

from reflux.errors import Terminal
from reflux.spec import Rubric as Section
from services.evaluator.misra import Misra
from services.evaluator.rubric import AVB, TSN, Rubric
from services.evaluator.score import Attempt, Scorer, the_compiler
from services.evaluator.syntax import heuristic
from services.evaluator.tasks import scorer_of

DOCUMENT = (Path(__file__).parents[2] / "docs/scoring.md").read_text()


def test_the_document_has_every_number_of_the_rubric() -> None:
    rows = {name: float(value) for name, value in re.findall(r"^\| `(\w+)` \| (-?[\d.]+) \|", DOCUMENT, re.MULTILINE)}
    numbers = {name: value for name, value in Rubric().model_dump().items() if name != "words"}
    assert rows == numbers


def test_the_document_has_every_word_and_every_trick() -> None:
    assert f"TSN: {', '.join(TSN)}" in DOCUMENT
    assert f"AVB: {', '.join(AVB)}" in DOCUMENT
    gaming = (Path(__file__).parents[2] / "services/evaluator/gaming.py").read_text()
    rules = {*re.findall(r'yield "([a-z-]+)"', gaming), "warnings-off", "line-marker"}
    section = DOCUMENT.split("## Tricks")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == rules


def test_the_version_changes_with_any_number_and_word() -> None:
    versions = [Rubric.of({name: 4.5}).version for name in Rubric.model_fields if not name.startswith(("words", "weight"))]
    versions += [Rubric().version, Rubric.of({}, {"tsn": ("frer",)}).version]
    assert len(set(versions)) == len(versions)
    assert Rubric.of({}).version == Rubric().version == "1"


def scored(section: Section, text: str, domain: str = "tsn") -> tuple[float, set[str]]:
    verdict = scorer_of(section).score(Attempt(text, "Write a function.", domain))
    return verdict.syntax, {item.rule for item in verdict.evidence}


def test_a_team_brings_headers_defines_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    headers = tmp_path / "include"
    (headers / "os").mkdir(parents=True)
    (headers / "os/types.h").write_text("typedef unsigned short os_tick_t;\n")
    (headers / "os.h").write_text('#include "os/types.h"\n#ifdef TARGET\nos_tick_t os_now(void);\n#endif\n')
    monkeypatch.setenv("REFLUX_INCLUDE_ROOTS", str(tmp_path))
    text = (
        '#include "os.h"\n#include <os/types.h>\nos_tick_t frer_next(os_tick_t lane) { return (os_tick_t)(os_now() + lane); }\n'
    )
    section = Section(include_dirs=(str(headers),), defines=("TARGET=1",), words={"frer": ("frer", "lane", "tick")})
    assert scored(section, text)[0] == 10
    verdict = scorer_of(section).score(Attempt(text, "", "frer"))
    assert verdict.protocol == 10
    assert scored(Section(), text)[0] <= 5, "without the folder there is no such header"
    secret = tmp_path / "secret.h"
    secret.write_text("int secret_value = 7;\n")
    assert scored(section, f'#include "{secret}"\nint f(void) {{ return secret_value; }}\n')[0] == 5
    assert scored(section, '#include "../secret.h"\nint f(void) { return secret_value; }\n')[0] == 5
    (headers / "os/types.h").write_text("typedef struct { int t; } os_tick_t;\n")
    assert scored(section, text)[0] < 10, "a changed header is seen"


def test_a_spec_may_not_name_folders_that_the_operator_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_INCLUDE_ROOTS", str(tmp_path / "headers"))
    for folder in ("/etc", "/", str(tmp_path / "headers/.."), str(tmp_path / "headers-too")):
        with pytest.raises(Terminal, match="include_dirs"):
            scorer_of(Section(include_dirs=(folder,)))
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers/way-out").symlink_to("/etc")
    with pytest.raises(Terminal, match="include_dirs"):
        scorer_of(Section(include_dirs=(str(tmp_path / "headers/way-out"),)))


def test_the_dialect_decides() -> None:
    text = "int f(int x) { for (;;) { int y = x; return y + 1; } }\nint g(unsigned x) { return x; }\n"
    assert scored(Section(), text)[0] == 10
    assert scored(Section(warnings=("-Wconversion", "-Wsign-conversion")), text)[0] < 10
    nameless = "struct s { union { int a; int b; }; };\nint f(const struct s *s) { return s->a + 1; }\n"
    assert scored(Section(), nameless)[0] == 10
    assert scored(Section(std_c="c99", warnings=("-Wpedantic",)), nameless)[0] < 10


@pytest.mark.skipif(bool(Misra().lacking), reason=f"MISRA rules need: {Misra().lacking}")
def test_misra_rules_join_the_evidence() -> None:
    text = "int f(int x)\n{\n    if (x > 3) goto out;\n    x = 010;\nout:\n    return x;\n}\n"
    verdict = scorer_of(Section(misra=True)).score(Attempt(text))
    found = {(item.rule, item.line) for item in verdict.evidence}
    assert {("misra-15.1", 3), ("misra-7.1", 4)} <= found
    assert verdict.metrics["misra_per_100_lines"] > 0
    assert scorer_of(Section()).score(Attempt(text)).safety == verdict.safety, "by itself it takes no points"
    stricter = scorer_of(Section(misra=True, overrides={"misra_each": -0.5})).score(Attempt(text))
    assert stricter.safety < verdict.safety


def test_no_text_is_compiled_twice() -> None:
    scorer = Scorer(compiler=the_compiler())
    attempts = [Attempt("int f(int x) { return x + 1; }\n", "p", "tsn", f"p{n}", n) for n in range(5)]
    first = scorer.score_all(attempts)
    assert [(row.prompt_id, row.sample) for row in first] == [(f"p{n}", n) for n in range(5)]
    assert scorer.hits == 0, "equal texts of one batch are one piece of work"
    assert scorer.score_all(attempts) == first
    assert scorer.hits == 1
    other = scorer.score(Attempt(attempts[0].text, "p", "avb"))
    assert scorer.hits == 1, "another domain is another verdict"
    assert other.evidence != first[0].evidence


@pytest.mark.parametrize(
    ("code", "score"),
    [
        ("int f(int x)\n{\n    return x + 1;\n}\n", 7.0),
        ("int f(int x)\n{\n    return x + 1;\n", 5.0),
        ("int f(int x)\n{\n    return (x + 1;\n}\n", 5.0),
        ("int f(int x)\n{\n    x = 2\n    return x + 1;\n}\n", 6.5),
        ("int f(int x)\n{\n    x = 2\n    x++\n    return x + 1\n}\n", 5.5),
        ("int f(int x)\n{\n" + "    x = 2\n" * 9 + "    return x;\n}\n", 4.0),
        ("int f(int x)\n{\n    return (x\n}}}\n", 2.5),
        ("static const int a[] = {\n    1,\n    2\n};\nint f(int x)\n{\n    return a[x]\n        + 1;\n}\n", 7.0),
    ],
)
def test_without_a_compiler_brackets_and_semicolons_are_looked_at(code: str, score: float) -> None:
    sheet = heuristic(code, Rubric())
    assert sheet.score() == score
    assert all(item.line for item in sheet.evidence[1:])


def test_a_machine_without_gcc_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from services.evaluator import compiler

    monkeypatch.setenv("PATH", str(tmp_path))
    compiler.version.cache_clear()
    try:
        bare = compiler.Compiler()
        verdict = Scorer(compiler=bare).score(Attempt("int f(int x) { return x + 1; }\n"))
        bare.close()
    finally:
        compiler.version.cache_clear()
    assert verdict.heuristic
    assert verdict.syntax == 7
    assert verdict.compiles
