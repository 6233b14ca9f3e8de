"""One client a teacher, made once a process."""

import os
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from reflux.errors import Terminal
from reflux.secret import secret
from reflux.spec import Teacher
from services.teacher_worker.limiter import Limiter
from services.teacher_worker.teachers import bedrock, endpoint, openai, recorded
from services.teacher_worker.teachers.call import Converse

CONNECTION = {
    *("provider", "api", "model", "region", "profile", "endpoint_url", "answers_uri"),
    *("timeout_seconds", "concurrency"),
}
_making = Lock()


@dataclass(frozen=True)
class Client:
    """One teacher and its limiter, shared by all tasks of this process that ask it."""

    limiter: Limiter
    converse: Converse


def teacher_for(teacher: Teacher) -> Client:
    """The client of this teacher, made once a process. Terminal where none can be made, or the operator does not allow it."""
    if teacher.endpoint_url and not (teacher.provider == "recorded" and teacher.answers_uri):
        endpoint.check(teacher.endpoint_url)
    connection = Teacher.model_validate(teacher.model_dump(include=CONNECTION))
    with _making:
        match teacher.provider:
            case "bedrock":
                return _client(connection, secret("BEDROCK_API_KEY"))
            case "openai":
                return _client(connection, secret("OPENAI_API_KEY"))
            case "recorded" if teacher.answers_uri:
                return _client(connection, recorded.version(teacher.answers_uri))
            case "recorded":
                return _client(connection, _stand_in(teacher))


@lru_cache(maxsize=32)
def _client(teacher: Teacher, around: Hashable) -> Client:
    """`around` is what else the client is made of: made anew where it changes."""
    return Client(Limiter(teacher.concurrency), _converse(teacher, around))


def _converse(teacher: Teacher, around: Hashable) -> Converse:
    if teacher.provider == "openai":
        return openai.connect(teacher)
    if teacher.answers_uri and teacher.provider == "recorded":
        return recorded.converse(recorded.read(teacher.answers_uri))
    return bedrock.connect(teacher, str(around) if teacher.provider == "recorded" else teacher.endpoint_url)


def _stand_in(teacher: Teacher) -> str:
    address = teacher.endpoint_url or os.environ.get("REFLUX_TEACHER_URL")
    if not address:
        raise Terminal(
            "invalid_spec",
            "The recorded teacher has no answers",
            "Set teacher.answers_uri to a JSONL file; or teacher.endpoint_url, or REFLUX_TEACHER_URL for the teacher workers.",
        )
    return address
