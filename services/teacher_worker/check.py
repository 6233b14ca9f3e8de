"""What preflight finds."""

from dataclasses import dataclass
from typing import Literal

from reflux.errors import RefluxError


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `hint` says what to do unless `status` is ok; `code` is one of reflux.errors."""

    name: str
    status: Literal["ok", "warning", "failed"]
    message: str
    hint: str = ""
    code: str = "preflight_failed"


def failed(name: str, error: RefluxError) -> Check:
    return Check(name, "failed", error.message, error.hint, error.code)
