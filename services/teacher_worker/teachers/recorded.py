"""The user's own earlier answers, read out of a JSONL file. Nothing is asked and nothing is paid."""

import obstore
from obstore.exceptions import BaseError

from reflux.artifacts import translated
from reflux.errors import Terminal
from reflux.recorded import Recording, entries
from reflux.spec import Teacher
from services.teacher_worker import ingest
from services.teacher_worker.teachers.call import CallFailed, Converse, Reply

HINT = "Each line is a JSON object: `prompt` with `answers` or `answer`, or chat `messages`."


def read(uri: str) -> Recording:
    """All of the file. Terminal names the lines that are wrong, or says that there is no file, or nothing in it."""
    try:
        recording = Recording(entries(ingest.read_lines(uri)))
    except FileNotFoundError as error:
        raise _missing(uri) from error
    except ValueError as error:
        raise Terminal("invalid_dataset", f"{uri}, {error}", HINT) from error
    if not len(recording):
        raise Terminal("empty_dataset", f"{uri} holds no answers", HINT)
    return recording


def version(uri: str) -> tuple[int, str | None]:
    """What changes when the file does: its size and its tag. Terminal if it is not there."""
    try:
        store, name = ingest.open_file(uri)
        found = obstore.head(store.store, name)
    except FileNotFoundError as error:
        raise _missing(uri) from error
    except BaseError as error:
        raise translated(error, uri) from error
    return found["size"], found["e_tag"]


def converse(recording: Recording) -> Converse:
    def look_up(_: Teacher, __: str, prompt: str) -> Reply:
        found = recording.answer(prompt)
        if found is None:
            raise CallFailed("refused", "there is no recorded answer to this prompt")
        return Reply(found[1], 0, 0)

    return look_up


def _missing(uri: str) -> Terminal:
    return Terminal("empty_dataset", f"There is no file of answers at {uri}", "Correct teacher.answers_uri.")
