"""A user's own training rows: JSONL of chat `messages`, checked line by line."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from reflux.errors import Terminal
from reflux.records import Example, Lineage, Message, digest
from services.teacher_worker import ingest

NAMED = 5  # wrong lines that the error names; the others are counted


class Row(BaseModel):
    """What is read of a row; other keys are left alone."""

    model_config = ConfigDict(extra="ignore")

    messages: tuple[Message, ...]
    domain: str = "generic"


def examples(uri: str) -> Iterator[Example]:
    """The rows of the file. Terminal("invalid_dataset") names the lines that are wrong, once all were looked at."""
    wrong: list[str] = []
    count = 0
    try:
        for number, raw in ingest.read_lines(uri):
            count += 1
            row = _checked(raw)
            if isinstance(row, str):
                wrong.append(f"line {number}: {row}")
            elif not wrong:
                yield _example(uri, number, row)
    except FileNotFoundError as error:
        raise Terminal("empty_dataset", f"There is no file at {uri}", "Correct data.train and data.validation.") from error
    if wrong:
        more = f"; and {len(wrong) - NAMED} more lines" if len(wrong) > NAMED else ""
        raise Terminal("invalid_dataset", f"{uri}, {'; '.join(wrong[:NAMED])}{more}")
    if not count:
        raise Terminal("empty_dataset", f"{uri} holds no rows", "Put one JSON object a line there, each with `messages`.")


def _checked(raw: bytes) -> Row | str:
    """The row, or what is wrong with it."""
    try:
        row = Row.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    except UnicodeDecodeError:
        return "not UTF-8"
    roles = [message.role for message in row.messages]
    empty = next((i for i, message in enumerate(row.messages) if not message.content.strip()), None)
    if empty is not None:
        return f"messages.{empty}.content is empty"
    if "user" not in roles or roles[-1] != "assistant":
        return "`messages` needs a user turn, and ends with an assistant turn"
    return row


def _example(uri: str, number: int, row: Row) -> Example:
    text = "\n".join(message.content for message in row.messages)
    return Example(
        id=f"up-{digest(uri.rsplit('/', 1)[-1], str(number), text)}",
        messages=row.messages,
        domain=row.domain,
        family="",
        lineage=Lineage(origin="upload", path=uri.rsplit("/", 1)[-1], lines=(number, number), sha256=digest(text)),
    )
