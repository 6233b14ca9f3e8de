from collections.abc import Iterator

import pytest

from reflux.client import Client
from reflux.local.stack import Stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.api_url, stack.keys["operator"]) as client:
        yield client
