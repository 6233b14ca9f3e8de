"""A user's own training rows, JSONL or CSV, checked line by line."""

from collections.abc import Iterator

from reflux.errors import Terminal
from reflux.records import Example, Lineage, digest
from reflux.training_rows import Checked, Line, Row, of_csv, of_jsonl
from services.teacher_worker import ingest

NAMED = 5  # wrong lines that the error names; the others are counted


def examples(uri: str) -> Iterator[Example]:
    """The rows of the file. Terminal("invalid_dataset") names the lines that are wrong, once all were looked at."""
    wrong: list[str] = []
    for number, row in rows(uri):
        if isinstance(row, str):
            wrong.append(f"line {number}: {row}")
        elif not wrong:
            yield _example(uri, number, row)
    if wrong:
        more = f"; and {len(wrong) - NAMED} more lines" if len(wrong) > NAMED else ""
        raise Terminal("invalid_dataset", f"{uri}, {'; '.join(wrong[:NAMED])}{more}")


def rows(uri: str) -> Iterator[Checked]:
    """Each row of the file, or what is wrong with it, as it is read. Terminal("empty_dataset") where there is none."""
    number = 0
    try:
        for number, row in of_csv(_whole_lines(uri)) if is_csv(uri) else of_jsonl(ingest.read_lines(uri)):
            yield number, row
    except FileNotFoundError as error:
        raise Terminal("empty_dataset", f"There is no file at {uri}", "Correct data.train and data.validation.") from error
    if not number:
        raise Terminal("empty_dataset", f"{uri} holds no rows", "Put one JSON object a line there, each with `messages`.")


def is_csv(uri: str) -> bool:
    return uri.lower().endswith(".csv")


def _whole_lines(uri: str) -> Iterator[Line]:
    """Ends and blank lines too: they may stand inside a quoted cell."""
    store, name = ingest.open_file(uri)
    for number, line in enumerate(store.lines(name), 1):
        yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line) + b"\n"


def _example(uri: str, number: int, row: Row) -> Example:
    text = "\n".join(message.content for message in row.messages)
    return Example(
        id=f"up-{digest(uri.rsplit('/', 1)[-1], str(number), text)}",
        messages=row.messages,
        domain=row.domain,
        family="",
        lineage=Lineage(origin="upload", path=uri.rsplit("/", 1)[-1], lines=(number, number), sha256=digest(text)),
    )
