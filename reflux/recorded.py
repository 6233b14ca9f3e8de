"""What a teacher wrote before, as JSONL: read, and looked up by prompt."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from reflux.records import Message

NAMED = 5  # wrong lines that the error names; the others are counted
HEAD = 16  # characters by which a prompt is looked for inside a longer text


class Row(BaseModel):
    """One line, in any of its forms; other keys are left alone. A row with an `error` has no answer."""

    model_config = ConfigDict(extra="ignore")

    prompt_id: str | None = None
    prompt: str | None = None
    answers: tuple[str, ...] = ()
    answer: str | None = None
    text: str | None = None
    response: str | None = None
    output: str | None = None
    messages: tuple[Message, ...] = ()
    error: str | None = None


class Entry(BaseModel):
    """A prompt, and the different answers to it in the order of the file. There is at least one."""

    prompt_id: str = ""
    prompt: str
    answers: tuple[str, ...]


class Recording:
    """Looks up the longest prompt that stands in a text, in time that does not grow with the number of prompts."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            prompt = entry.prompt.strip()
            known = self._entries.setdefault(prompt, entry)
            if known is not entry:
                answers = tuple(dict.fromkeys(known.answers + entry.answers))
                self._entries[prompt] = known.model_copy(update={"answers": answers})
        self._head = min(HEAD, min(map(len, self._entries), default=HEAD))
        lengths: dict[str, set[int]] = defaultdict(set)
        for prompt in self._entries:
            lengths[prompt[: self._head]].add(len(prompt))
        self._lengths = {head: sorted(found) for head, found in lengths.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def answer(self, text: str) -> tuple[str, str] | None:
        """The prompt's id and an answer, or None. The bare prompt has the first; more text than that is a correction,
        and has an answer that does not stand in it."""
        entry = self._entries.get(text.strip()) or self._inside(text)
        return (entry.prompt_id, _variant(entry, text)) if entry else None

    def _inside(self, text: str) -> Entry | None:
        found = (
            self._entries.get(text[i : i + length])
            for i in range(len(text))
            for length in self._lengths.get(text[i : i + self._head], ())
        )
        return max((entry for entry in found if entry), key=lambda entry: len(entry.prompt), default=None)


def entries(lines: Iterable[tuple[int, bytes]]) -> list[Entry]:
    """The entries of numbered lines, blank ones left out. ValueError names the lines that are wrong."""
    found: list[Entry] = []
    wrong: list[str] = []
    for number, raw in lines:
        if not raw.strip():
            continue
        try:
            row = Row.model_validate_json(raw)
            if row.error is None:
                found.append(_entry(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            wrong.append(f"line {number}: {where + ': ' if where else ''}{first['msg']}")
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - NAMED} more lines" if len(wrong) > NAMED else ""
        raise ValueError("; ".join(wrong[:NAMED]) + more)
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _entry(row: Row) -> Entry:
    prompt = row.prompt
    given = [*row.answers, row.answer, row.text, row.response, row.output]
    if prompt is None and row.messages:
        users = [i for i, message in enumerate(row.messages) if message.role == "user"]
        if not users:
            raise ValueError("`messages` has no user turn")
        prompt = row.messages[users[-1]].content
        given += [message.content for message in row.messages[users[-1] + 1 :] if message.role == "assistant"]
    answers = tuple(dict.fromkeys(answer for answer in given if answer and answer.strip()))
    if not (prompt and prompt.strip()):
        raise ValueError("there is no `prompt`, and no `messages`")
    if not answers:
        raise ValueError("there is no answer: give `answers`, `answer`, `text`, `response` or `output`")
    return Entry(prompt_id=row.prompt_id or "", prompt=prompt, answers=answers)


def _variant(entry: Entry, text: str) -> str:
    if text.strip() == entry.prompt.strip():
        return entry.answers[0]
    start = int(digest(text), 16) % len(entry.answers)
    turned = entry.answers[start:] + entry.answers[:start]
    return next((answer for answer in turned if _code(answer) not in text), turned[0])


def _code(answer: str) -> str:
    return re.sub(r"^```\w*\n|\n```$", "", answer.strip())
