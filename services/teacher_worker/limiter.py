"""How fast one teacher may be asked: what this process has found out about it, by asking and being throttled."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WINDOW = 2.0  # seconds between two changes of the pace
FLOOR = 1.0  # calls a second; a throttle at this pace counts as a failed try
HEADROOM = 1.25  # the pace stays so far above the rate that is answered: what is throttled costs nothing
GROWTH = 1.1  # in a window, at most
UNLIMITED = float("inf")


class Limiter:
    """`slots` calls at once, and at most `pace` starts a second. Thread-safe; shared by all who ask the same teacher.

    The pace is unlimited until the first throttle. It then follows the rate at which the teacher really answers.
    """

    def __init__(self, slots: int) -> None:
        self.pace = UNLIMITED
        self._count = slots
        self._slots = threading.BoundedSemaphore(slots)
        self._gate = threading.Lock()  # who holds it waits for the next turn
        self._lock = threading.Lock()  # guards what follows
        self._next_turn = 0.0
        self._changed = time.monotonic()
        self._answered = 0
        self._throttled = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Waits for a slot and for its turn."""
        with self._slots:
            with self._gate:
                while (wait := self._until_turn()) > 0:
                    time.sleep(min(wait, 0.5))
            yield

    def answered(self) -> None:
        with self._lock:
            self._answered += 1
            self._adapt()

    def throttled(self) -> bool:
        """Lower the pace. True if it is at its floor already, and the throttle counts as a failed try."""
        with self._lock:
            self._throttled += 1
            at_floor = self.pace <= FLOOR
            self._adapt(at_once=self.pace == UNLIMITED)
            return at_floor

    def _until_turn(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now < self._next_turn:
                return self._next_turn - now
            self._next_turn = now + 1 / self.pace
            return 0.0

    def _adapt(self, at_once: bool = False) -> None:
        elapsed = time.monotonic() - self._changed
        if elapsed < WINDOW and not at_once:
            return
        rate = self._answered / max(elapsed, 0.1)
        asked = (self._answered + self._throttled) / max(elapsed, 0.1)
        if self._throttled and self.pace == UNLIMITED:
            self.pace = max(FLOOR, HEADROOM * rate if self._answered else self._count)
        elif self._throttled:
            self.pace = max(FLOOR, min(GROWTH * self.pace, HEADROOM * rate))
        elif self.pace < UNLIMITED and asked > 0.8 * self.pace:
            self.pace = GROWTH * self.pace + 0.5
        self._changed += elapsed
        self._answered = self._throttled = 0
