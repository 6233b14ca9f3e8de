"""What is taken out of a text before the compiler sees it, and that any text can be scored."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.evaluator.extract_code import Extracted, Language, extract
from services.evaluator.score import Attempt, the_scorer
from services.evaluator.source import prepare

PIECES = [
    *("#", "%:", "??=", "include", "pragma", "line", "define", "if", "endif", "__has_include", "_Pragma", "GCC diagnostic"),
    *('"/etc/passwd"', "<stdint.h>", "</etc/passwd>", "x", "1", "(", ")", '"', "'", "//", "/*", "*/", 'R"(', ')"', "\\", "??/"),
    *(
        '#include "/etc/passwd"',
        "#include",
        '\n#include "/etc/passwd"\n',
        "#define W",
        "#if __has_include(</etc/passwd>)",
        "# 3",
        "inc\\\nlude",
    ),
    *("\n", "\\\n", "\\ \n", " ", "\t", "\f", "int f(int x) { return x; }", ";", "ä", "\u2028", "\r"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
LANGUAGES: st.SearchStrategy[Language] = st.sampled_from(["c", "c++"])


@given(TEXTS, LANGUAGES)
@settings(max_examples=500, deadline=None)
def test_the_compiler_s_text_has_the_student_s_lines_and_columns(text: str, language: Language) -> None:
    code = extract(text, language).code
    source = prepare(code, language)
    assert [len(line) for line in source.text.split("\n")] == [len(line) for line in code.split("\n")]
    lines = code.split("\n")
    assert all(1 <= item.line <= len(lines) and 1 <= item.column <= len(lines[item.line - 1]) + 1 for item in source.findings)


@given(TEXTS, LANGUAGES)
@settings(max_examples=500, deadline=None)
def test_what_was_refused_once_is_not_there_any_more(text: str, language: Language) -> None:
    """The compiler's text, looked at again, has nothing left to refuse but what only notes."""
    again = prepare(prepare(extract(text, language).code, language).text, language)
    assert {item.rule for item in again.findings} <= {"warnings-off"}


@given(st.one_of(TEXTS, st.text(max_size=200)), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_gets_a_verdict(text: str, fenced: bool) -> None:
    verdict = the_scorer().score(Attempt(f"```c\n{text}\n```" if fenced else text, text, "tsn"))
    assert 0 <= verdict.overall <= 10
    assert verdict.evidence
    assert "root:" not in verdict.model_dump_json()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("#include <stdint.h>\n", True),
        ('#include "stdint.h"\n', True),
        ("#  include\t<linux/ptp_clock.h> // time\n", True),
        ("%:include <string.h>\n", True),
        ("#include <vector>\n", False),
        ("#include <stdint.h> x\n", False),
        ("#include <../include/stdint.h>\n", False),
        ("#include_next <stdint.h>\n", False),
        ("#include STDINT\n", False),
    ],
)
def test_only_the_standard_headers_are_included(text: str, kept: bool) -> None:
    source = prepare(text, "c")
    assert (source.text == text) == kept
    assert bool(source.findings) != kept
    assert kept or source.text.startswith("#error R")


def test_directives_in_strings_and_comments_are_left_alone() -> None:
    text = '/*\n#include "/etc/passwd"\n*/\nconst char *a = "#pragma GCC system";\n// #line 3\n'
    source = prepare(text, "c")
    assert (source.text, source.findings) == (text, ())
    raw = 'const char *a = R"x(\n#include "/etc/passwd"\n)x";\n'
    assert prepare(raw, "c++").marked.keys() == {2}, "a raw string may end sooner than it seems"
    assert prepare("int a = 1'000;\n// don't\n#include \"x.h\"\n", "c++").marked.keys() == {3}


@pytest.mark.parametrize(
    ("text", "code", "language", "blocks", "cut"),
    [
        ("int x;\n", "int x;\n", "c", 0, False),
        ("```c\nint x;\n```\n", "int x;\n", "c", 1, False),
        ("```C++ title\nint x;\n```", "int x;\n", "c++", 1, False),
        ("```\nint x;\n```\n```c\nint y;\n```\n", "int y;\n", "c", 1, False),
        ("```c\nint x;\n```\n\n```h\nint y;\n```\n", "int x;\n\nint y;\n", "c", 2, False),
        ("````c\nint x; // ```\n```\n````\n", "int x; // ```\n```\n", "c", 1, False),
        ("~~~cpp\nint x;\n~~~\n", "int x;\n", "c++", 1, False),
        ("```c\nint x;\n", "int x;\n", "c", 1, True),
        ("```python\nx = 1\n```\n", "", "c", 0, False),
        ("```c\r\nint x;\r\n```\r\n", "int x;\n", "c", 1, False),
        ("```c int x;\n```\nint y;\n```\n", "\n", "c", 1, True),
    ],
)
def test_code_is_found_in_answers(text: str, code: str, language: Language, blocks: int, cut: bool) -> None:
    assert extract(text) == Extracted(code, language, blocks, cut)
