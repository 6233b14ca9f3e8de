"""Folders for servers: pytest's own are closed to the user that PostgreSQL falls back to."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder for the session, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="reflux-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
