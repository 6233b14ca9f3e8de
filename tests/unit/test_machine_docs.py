"""docs/machines.md tells what the provider's errors mean, and how often a machine is replaced, as the code has it."""

import re

import pytest

from reflux.errors import POLICIES
from services.teacher_worker.cloud.ec2 import TAKEN_BACK
from services.teacher_worker.cloud.errors import MEANS
from tests.environment import ROOT

PAGE = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| (.+) \| `(\w+)` \| (.+) \|$", PAGE.partition("## Errors")[2].partition("## ")[0], re.MULTILINE)
ROWS = [row for row in TABLE if row[1] in POLICIES]


@pytest.mark.parametrize(("says", "code", "then"), ROWS)
def test_a_row_is_as_the_code_has_it(says: str, code: str, then: str) -> None:
    for theirs in re.findall(r"`([A-Z][\w.]+)`", says):
        assert theirs in TAKEN_BACK if "." in theirs else MEANS[theirs] == code, theirs
    waits = ", ".join(f"{wait:g}" for wait in POLICIES[code].waits)
    how = "another machine" if POLICIES[code].of_machine else "asked again"
    assert then == (f"{how} after {waits} s" if waits else "the run ends")


def test_every_reason_for_another_machine_has_its_row() -> None:
    assert {code for code, policy in POLICIES.items() if policy.of_machine} <= {code for _, code, _ in ROWS}
