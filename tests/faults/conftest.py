"""The disturbed runs and their undisturbed twin share one stack."""

from pathlib import Path

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from tests.e2e.conftest import client, stack, student
from tests.e2e.tiny import tiny_spec
from tests.faults.samples import Samples

__all__ = ["client", "stack", "student", "twin"]


@pytest.fixture(scope="session")
def twin(stack: Stack, student: Path) -> Samples:
    """What an undisturbed run makes."""
    with Client(stack.api_url, stack.keys["operator"]) as calm:
        run = calm.wait(calm.create(tiny_spec(student)).id, 300)
    assert run.outcome == "succeeded", run.error
    return Samples.of(stack, run)
