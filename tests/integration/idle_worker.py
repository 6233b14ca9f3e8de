"""A real worker whose commands take no time: `python -m tests.integration.idle_worker SERVICE`."""

import sys

from reflux.queues import kinds
from reflux.worker import main
from tests.unit.stories import answer

if __name__ == "__main__":
    main(sys.argv[1], dict.fromkeys(kinds(sys.argv[1]), lambda task: answer(task.command)), dict, concurrency=1)
