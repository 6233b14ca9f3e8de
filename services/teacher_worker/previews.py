"""A look at data for people who put a run together: as much as a few seconds show, found and named as preflight would."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from reflux import leaks
from reflux.answering import ErrandHandler, Pieces, in_silence
from reflux.artifacts import Artifacts, translated
from reflux.errands import Errand, PreviewErrand
from reflux.errors import Terminal
from reflux.previews import Excerpt, LinesPreview, PreviewRequest, SourcesPreview
from reflux.records import Message
from reflux.spec import Data, FieldProblem
from reflux.training_rows import Row
from services.teacher_worker import ingest, prompts, redaction, uploads

SECONDS = 10.0
PATHS = 8  # that are named; one of them is read
FILE_BYTES = Data().max_file_bytes
FILE_LINES = 20
FILE_CHARACTERS = 4000
CHECKED = 2000  # lines of a file
ROWS = 3
TURN_CHARACTERS = 1000
NAMED = 20  # wrong lines; the others are counted


def preview(errand: Errand, _artifacts: str) -> Pieces:
    order = errand.order
    assert isinstance(order, PreviewErrand)
    return in_silence(lambda: look(order))


ERRANDS: dict[str, ErrandHandler] = {"preview": preview}


def look(request: PreviewRequest, seconds: float = SECONDS) -> SourcesPreview | LinesPreview:
    """RefluxError where preflight would find nothing, or could not read it."""
    until = time.monotonic() + seconds
    try:
        return _sources(request.uri, until) if request.holds == "sources" else _lines(request, until)
    except OSError as error:
        raise translated(error, request.uri) from error


@dataclass
class _Pen:
    """Writes down what is shown, without secrets, and without what neither JSON nor Postgres takes."""

    blots: int = 0

    def written(self, text: str, most: int = TURN_CHARACTERS) -> str:
        text = text[: 4 * most].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
        text, found = redaction.redacted(text)
        text, more = leaks.FORMS.subn(leaks.BLOT, text)
        self.blots += found + more
        return text if len(text) <= most else f"{text[:most]}…"


def _sources(uri: str, until: float) -> SourcesPreview:
    pen, suffixes = _Pen(), Counter[str]()
    paths: list[str] = []
    readable: list[str] = []
    others, complete = 0, True
    store = ingest.open_source(uri)
    for path, size in store.walk() if store else ():
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in ingest.SUFFIXES:
            suffixes[suffix] += 1
            paths += [path] if len(paths) < PATHS else []
            readable += [path] if len(readable) < PATHS and 0 < size <= FILE_BYTES else []
        else:
            others += 1
        if time.monotonic() > until:
            complete = False
            break
    if store is None or (complete and not suffixes):
        nothing = ingest.without_sources(store, others)
        raise Terminal(nothing.code, f"{uri}: {nothing.message}", nothing.hint)
    first = _excerpt(pen, store, readable)
    named = [pen.written(path) for path in paths]
    return SourcesPreview(
        suffixes=dict(suffixes.most_common()), others=others, paths=named, first=first, complete=complete, blots=pen.blots
    )


def _excerpt(pen: _Pen, store: Artifacts, paths: list[str]) -> Excerpt | None:
    """The beginning of the first file that is text."""
    for path in paths:
        try:
            text = ingest.decode(store.get(path))
        except (FileNotFoundError, Terminal):
            continue
        if text:
            head = pen.written(text, FILE_CHARACTERS).split("\n")
            cut = ["…"] if len(head) > FILE_LINES else []
            return Excerpt(path=pen.written(path), text="\n".join(head[:FILE_LINES] + cut))
    return None


def _lines(request: PreviewRequest, until: float) -> LinesPreview:
    pen, rows, wrong = _Pen(), list[Row](), list[FieldProblem]()
    checked = errors = 0
    complete = True
    for number, line in uploads.rows(request.uri) if request.holds == "rows" else prompts.lines(request.uri):
        if checked == CHECKED or time.monotonic() > until:
            complete = False
            break
        checked += 1
        if isinstance(line, str):
            errors += 1
            wrong += [FieldProblem(field=f"line {number}", message=pen.written(line))] if errors <= NAMED else []
        elif len(rows) < ROWS:
            rows.append(_row(pen, line))
    return LinesPreview(
        holds="rows" if request.holds == "rows" else "prompts",
        form="csv" if request.holds == "rows" and uploads.is_csv(request.uri) else "jsonl",
        checked=checked,
        rows=rows,
        errors=errors,
        wrong=wrong,
        complete=complete,
        blots=pen.blots,
    )


def _row(pen: _Pen, line: Row | prompts.Line) -> Row:
    turns = line.messages if isinstance(line, Row) else (Message(role="user", content=line.text),)
    messages = tuple(Message(role=turn.role, content=pen.written(turn.content)) for turn in turns)
    return Row(messages=messages, domain=pen.written(line.domain))
