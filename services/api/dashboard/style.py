"""The dashboard's own style sheet, at an address that changes with what is in it."""

import hashlib
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("dashboard.css")


@cache
def address() -> str:
    return f"/_reflux/{hashlib.sha256(FILE.read_bytes()).hexdigest()[:12]}/dashboard.css"
