"""What the operator says about this machine. Known on both sides of the pipe, so without torch."""

import os

from reflux.errors import Terminal

HINT = "Set REFLUX_TRAINING_PROCESSES to how many GPUs are to train together."


def processes() -> int:
    """How many processes train together. Terminal where the setting is no number."""
    said = os.environ.get("REFLUX_TRAINING_PROCESSES", "1")
    if not said.isdecimal() or int(said) < 1:
        raise Terminal("not_supported", f"REFLUX_TRAINING_PROCESSES is {said!r}.", HINT)
    return int(said)
