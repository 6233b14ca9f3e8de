"""Disturbed runs are held against the calm one: the same samples, none lost, none doubled."""

import pytest

from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.conftest import client
from tests.faults.samples import Samples

__all__ = ["client", "twin"]


@pytest.fixture(scope="session")
def twin(stack: Stack, calm_run: RunView) -> Samples:
    assert calm_run.outcome == "succeeded", calm_run.error
    return Samples.of(stack, calm_run)
