"""Random numbers that depend on what they are for, and not on what was drawn before."""

import random

from reflux.records import digest


def seed(*parts: object) -> int:
    """A seed of 63 bits for whatever the parts name together."""
    return int(digest(*map(str, parts)), 16) % 2**63


def draws(*parts: object) -> random.Random:
    return random.Random(seed(*parts))  # noqa: S311 (for shuffles, not for secrets)
