"""What the dashboard makes of a student's text, without a browser."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflux.records import Evidence
from services.api.dashboard import code, diff

EVIL = '</code><script>alert(1)</script> \x1b[31m "\u202e" &amp; \x00\u200b\n\tint x;\n'


class Tags(HTMLParser):
    """The tags and the text of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def error(line: int, column: int | None = None, points: float = -4.0) -> Evidence:
    return Evidence(part="syntax", rule="error", message="bad <b>word</b>", points=points, line=line, column=column)


def test_a_message_stands_below_its_line_with_a_caret_at_its_column() -> None:
    shown = str(code.annotated("int f(void)\n\treturn x;\n", "c", [error(2, 9)], anchor="line"))
    first, rest = shown.split('id="line-2"')
    assert "said" not in first
    assert 'class="caret" aria-hidden="true">\t       ^<' in rest
    assert "bad &lt;b&gt;word&lt;/b&gt; <i>\u22124</i>" in rest


@pytest.mark.parametrize("language", ["c", "c++"])
@given(text=st.text(alphabet=st.sampled_from("<>&\"'/*\\#{}();=:ax0 \n\t\r\x1b\u202e\u2066\u200b\u2028é"), max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_is_shown_whole_and_without_a_tag_of_its_own(language: str, text: str) -> None:
    lines = code.lines(text, language)
    assert "\n".join("".join(part for _, part in line) for line in lines).rstrip("\n") == text.replace("\r\n", "\n").replace(
        "\r", "\n"
    ).rstrip("\n")
    shown = Tags(str(code.annotated(text, language, [error(1, 3)])))
    assert shown.tags <= {"div", "span", "code", "b", "i"}
    assert not code.HIDDEN.search(shown.text.replace("\u200b", ""))


@given(old=st.text(alphabet="ab<\n", max_size=60), new=st.text(alphabet="ab<\n", max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_difference_holds_both_texts(old: str, new: str) -> None:
    shown = Tags(str(diff.shown(old, new, "c", split=True)))
    assert shown.tags <= {"div", "span", "code", "mark", "details", "summary"}
    taken, given_ = diff.changed(old, new, "c")
    assert len(code.lines(old)) - taken == len(code.lines(new)) - given_


def test_what_is_not_seen_is_marked_and_named() -> None:
    assert Tags(str(code.visible(EVIL))).tags == {"span"}
    assert "U+202E RIGHT-TO-LEFT OVERRIDE" in code.hides(EVIL)
    assert code.plain("a\x1b[2J\u202eb") == "a⟨ESC⟩[2J⟨U+202E⟩b"


@pytest.mark.parametrize("text", ["\n" * 20_000, "\r" * 900 + "\n", "/" * 20_000, " \n" * 9_000, "int x;\n" * 3_000])
def test_text_that_pygments_takes_seconds_for_is_shown_without_colours(text: str) -> None:
    assert {css for line in code.lines(text, "c") for css, _ in line} <= {""}


def test_the_parts_of_a_line_that_differ_are_marked() -> None:
    shown = str(diff.shown("int x = 1;\nint y;\n", "int x = 22;\nint y;\n", "c", split=True))
    assert '<mark><span class="mi">22</span></mark>' in shown


def test_long_equal_parts_are_folded() -> None:
    same = "".join(f"int x{i};\n" for i in range(40))
    assert "<summary>34 equal lines</summary>" in str(diff.shown(f"a;\n{same}b;\n", f"c;\n{same}d;\n", "c", split=False))
