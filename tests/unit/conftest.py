from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import S3, s3_server


@pytest.fixture(scope="session")
def s3(ground: Path) -> Iterator[S3]:
    with s3_server(ground / "s3") as server:
        yield server
