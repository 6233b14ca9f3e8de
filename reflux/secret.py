"""Secrets, as a process is given them: in the environment, or in the file that NAME_FILE names (a mounted secret)."""

import os
from pathlib import Path


def secret(name: str) -> str | None:
    """The secret, or None if neither NAME nor NAME_FILE is set. OSError if the file can't be read."""
    file = os.environ.get(f"{name}_FILE")
    if file:
        return Path(file).read_text(encoding="utf-8").strip()
    return os.environ.get(name)
