"""One call of a teacher: what comes back, and how it fails. Tries and waits are not made here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from reflux.spec import Teacher

CONNECT_SECONDS = 5
CALLS_AT_ONCE = 256  # connections a client may hold; the limiter decides how many are used
LONGEST_MESSAGE = 500  # characters of what a provider says about an error

Trouble = Literal["teacher_throttled", "teacher_stream_error", "teacher_timeout", "teacher_unreachable", "refused"]


class CallFailed(Exception):
    """One call without an answer. `refused` means that this prompt will never be answered; all else may be tried again."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(trouble, message)
        self.trouble = trouble
        self.message = message

    @property
    def code(self) -> str:
        return self.trouble


@dataclass(frozen=True)
class Reply:
    """`cut`: the answer reached the token limit, so that its end is missing."""

    text: str
    input_tokens: int
    output_tokens: int
    cut: bool = False


Converse = Callable[[Teacher, str, str], Reply]
"""Ask a teacher once, with a system prompt and a prompt. Raises CallFailed, or Terminal where no prompt would be answered."""


def checked(reply: Reply, reason: str) -> Reply:
    """The reply unless it is blank; `reason` is why the provider says it ended."""
    if not reply.text.strip():
        raise CallFailed("teacher_stream_error", f"the answer is empty (stop reason: {reason or 'none'})")
    return reply


def said(message: str, secrets: Iterable[str | None]) -> str:
    """What a provider said, cut short, and without the secrets that it may repeat."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[REDACTED]")
    return message[:LONGEST_MESSAGE]
