"""Rows that users bring to train on, as JSONL or CSV: which forms there are, and what each line must have.

    {"messages": [a user's and an assistant's turns, in turns]}      chat
    {"prompt": "…", "completion": "…", "system": "…"}               one exchange; `system` may be left out
    {"text": "…"}                                                    plain text, learnt as a whole

In a CSV these are the columns, with `messages` as JSON. A row may have a `domain`; other keys are left alone.
"""

import csv
import json
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from reflux.records import Message

Line = tuple[int, bytes | str]  # its number, and its bytes; or words on why it can't be read
Checked = tuple[int, "Row | str"]  # the row, or what is wrong with it

FORMS = ({"messages"}, {"prompt", "completion"}, {"text"})
CELLS = ("messages", "prompt", "completion", "system", "text", "domain")


class Row(BaseModel):
    """A single turn, the assistant's, is plain text."""

    messages: tuple[Message, ...]
    domain: str = "generic"


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore")

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    completion: str | None = None
    system: str | None = None
    text: str | None = None
    domain: str = "generic"


def checked(raw: bytes | str) -> Row | str:
    """The row that a line of JSON holds, or what is wrong with it."""
    try:
        given = _Given.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    except UnicodeDecodeError:
        return "not UTF-8"
    if given.messages is not None:
        return _conversation(given.messages, given.domain)
    if given.prompt is None and given.completion is None and given.text is None:
        return "neither `messages`, nor `prompt` and `completion`, nor `text`"
    exchange = {"prompt": given.prompt, "completion": given.completion}
    wanted = exchange if given.text is None else {"text": given.text}
    empty = next((name for name, value in wanted.items() if not (value or "").strip()), None)
    if empty:
        return f"`{empty}` is empty"
    roles = {"system": given.system, "user": given.prompt, "assistant": given.completion}
    if given.text is not None:
        roles = {"assistant": given.text}
    return Row(messages=tuple(Message(role=r, content=c) for r, c in roles.items() if c), domain=given.domain)


def _conversation(messages: tuple[Message, ...], domain: str) -> Row | str:
    roles = [message.role for message in messages]
    empty = next((i for i, message in enumerate(messages) if not message.content.strip()), None)
    if empty is not None:
        return f"messages.{empty}.content is empty"
    if roles != ["assistant"] and ("user" not in roles or roles[-1] != "assistant"):
        return "`messages` needs a user turn, and ends with an assistant turn"
    return Row(messages=messages, domain=domain)


def of_jsonl(lines: Iterable[Line]) -> Iterator[Checked]:
    """Blank lines are passed over."""
    for number, line in lines:
        if isinstance(line, str):
            yield number, line
        elif line.strip():
            yield number, checked(line)


def of_csv(lines: Iterable[Line]) -> Iterator[Checked]:
    """A row's number is that of its last line."""
    texts = _Texts(lines)
    reader = csv.DictReader(texts, strict=True)
    try:
        columns = set(reader.fieldnames or ())
        if not any(columns >= form for form in FORMS):
            yield 1, "the header names neither `messages`, nor `prompt` and `completion`, nor `text`"
            return
        for cells in reader:
            yield reader.line_num, _of_cells({name: cells[name] for name in CELLS if cells.get(name)})
    except (csv.Error, ValueError) as error:
        yield texts.number, str(error)


def _of_cells(cells: dict[str, str]) -> Row | str:
    if "messages" not in cells:
        return checked(json.dumps(cells))
    try:
        return checked(json.dumps(cells | {"messages": json.loads(cells["messages"])}))
    except (ValueError, RecursionError):
        return "`messages` is not JSON"


class _Texts:
    """Lines as the csv module takes them. ValueError for one that can't be read, or is not UTF-8."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = iter(lines)
        self.number = 1

    def __iter__(self) -> Iterator[str]:
        for number, line in self.lines:
            self.number = number
            if isinstance(line, str):
                raise ValueError(line)
            try:
                yield line.decode()
            except UnicodeDecodeError:
                raise ValueError("not UTF-8") from None
