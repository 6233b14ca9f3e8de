"""Training rows that users upload: JSONL or CSV, looked at line by line, stored as JSONL under the digest of what they say."""

import hashlib
import tempfile
from collections.abc import Iterator
from itertools import chain
from typing import IO, Literal

from reflux import leaks
from reflux.artifacts import Artifacts
from reflux.spec import FieldProblem
from reflux.training_rows import Line, Row, of_csv, of_jsonl
from reflux.views import DatasetView
from services.api import files
from services.api.problems import ProblemError

Form = Literal["jsonl", "csv"]
FORMS: dict[str, Form] = {
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/x-jsonlines": "jsonl",
    "text/csv": "csv",
}
LINE_BYTES = 1_000_000
NAMED = 20  # wrong lines that the error names; the others are counted
SHOWN = 5
LEAK = "it holds what looks like a key or a password, which a student could tell again"
HINT = "A row has `messages` with a user and an assistant turn (in a CSV as JSON), or `prompt` and `completion`, or `text`."


def form_of(content_type: str) -> Form:
    form = FORMS.get(content_type.split(";", maxsplit=1)[0].strip().lower())
    if form is None:
        raise ProblemError(415, "unknown_form", "A dataset is JSONL or CSV.", f"Set Content-Type: {' or '.join(FORMS)}.")
    return form


def store(artifacts: Artifacts, upload: IO[bytes], form: Form, name: str) -> DatasetView:
    """Check every line, then store the rows. 422 names the lines that are wrong; then nothing is stored."""
    wrong: list[FieldProblem] = []
    errors = rows = 0
    preview: list[Row] = []
    digest = hashlib.sha256()
    upload.seek(0)
    with tempfile.TemporaryFile() as out:
        for number, row in (of_csv if form == "csv" else of_jsonl)(_lines(upload)):
            fault = row if isinstance(row, str) else LEAK if any(leaks.places(row.model_dump())) else ""
            if fault or isinstance(row, str):
                errors += 1
                wrong += [FieldProblem(field=f"line {number}", message=fault, hint=HINT)] if errors <= NAMED else []
                continue
            line = row.model_dump_json().encode() + b"\n"
            digest.update(line)
            out.write(line)
            rows += 1
            preview += [row] if rows <= SHOWN else []
        if wrong or not rows:
            told = f"{errors} lines are wrong." if wrong else "There are no rows."
            raise ProblemError(422, "invalid_dataset", told, HINT, wrong)
        path = f"datasets/{digest.hexdigest()[:16]}/{name}.jsonl"
        size = out.tell()
        out.seek(0)
        files.put(artifacts, path, out)
    return DatasetView(uri=f"{artifacts.url.rstrip('/')}/{path}", rows=rows, bytes=size, preview=preview)


def _lines(upload: IO[bytes]) -> Iterator[Line]:
    """Numbered lines; words in place of one that is too long. Memory holds one line."""
    first = upload.readline(LINE_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(chain([first], iter(lambda: upload.readline(LINE_BYTES + 1), b"")), 1):
        if len(line) <= LINE_BYTES:
            yield number, line
            continue
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = upload.readline(LINE_BYTES)
        yield number, f"longer than {LINE_BYTES} bytes"
