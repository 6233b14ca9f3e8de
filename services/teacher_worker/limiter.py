"""How fast one teacher may be asked: what this process has found out about it, by asking and being throttled."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WINDOW = 2.0  # seconds, at least, between two changes of the pace
FIRST_WINDOW = 0.5  # seconds from the first throttle to the first pace, as until then every slot is thrown at the teacher
ENOUGH = 8  # outcomes, at least, that such a change is drawn from
FLOOR = 1.0  # calls a second; a throttle at this pace counts as a failed try
HEADROOM = 1.1  # so far the pace stays above the rate that is answered: what is throttled costs nothing
GROWTH = 1.5  # of the pace, after a window without a throttle in which all of it was wanted
UNLIMITED = float("inf")


class Limiter:
    """`slots` calls at once, and at most `pace` starts a second. Thread-safe; shared by all who ask the same teacher.

    The pace is unlimited until a window with throttles. It then follows the rate at which the teacher really answers.
    """

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = UNLIMITED
        self._clock = clock
        self._whole = slots
        self._shares: list[Callable[[], int]] = []
        self._waiting: list[tuple[int, int, threading.Event]] = []
        self._asked = itertools.count()
        self._in_use = 0
        self._next_turn = 0.0
        self._began = clock()
        self._answered = 0
        self._throttled = 0
        self._lock = threading.Lock()  # guards what stands above
        self._gate = threading.Lock()  # who holds it waits for the next turn

    @contextmanager
    def sharing(self, share: Callable[[], int]) -> Iterator[None]:
        """Meanwhile the slots are the sum of what all who share are told to take, and at least one: each slot is anybody's.

        `share` may change at any time; a smaller one lets calls that are under way end.
        """
        with self._lock:
            self._shares.append(share)
        try:
            yield
        finally:
            with self._lock:
                self._shares.remove(share)
                self._admit()

    @contextmanager
    def slot(self, order: int = 0) -> Iterator[None]:
        """Waits for a slot, the lowest `order` first, and for its turn.

        Tasks that are served one after another end one after another: there are always questions for all slots.
        """
        admitted = threading.Event()
        with self._lock:
            heapq.heappush(self._waiting, (order, next(self._asked), admitted))
            self._admit()
        admitted.wait()
        try:
            with self._gate:
                while (wait := self._until_turn()) > 0:
                    time.sleep(min(wait, 0.5))
            yield
        finally:
            with self._lock:
                self._in_use -= 1
                self._admit()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    def answered(self) -> None:
        with self._lock:
            self._answered += 1
            self._adapt()

    def throttled(self) -> bool:
        """Lower the pace. True if it is at its floor already, and the throttle counts as a failed try."""
        with self._lock:
            self._throttled += 1
            at_floor = self.pace <= FLOOR
            self._adapt()
            return at_floor

    def _admit(self) -> None:
        slots = max(1, sum(share() for share in self._shares)) if self._shares else self._whole
        while self._waiting and self._in_use < slots:
            self._in_use += 1
            heapq.heappop(self._waiting)[2].set()

    def _until_turn(self) -> float:
        with self._lock:
            now = self._clock()
            if now < self._next_turn:
                return self._next_turn - now
            self._next_turn = now + 1 / self.pace
            return 0.0

    def _adapt(self) -> None:
        """Draw the pace from the outcomes of a window, which begins with its first."""
        now, outcomes = self._clock(), self._answered + self._throttled
        if outcomes == 1:
            self._began = now
        elapsed = now - self._began
        first = self._throttled > 0 and self.pace == UNLIMITED
        if elapsed < (FIRST_WINDOW if first else WINDOW) or outcomes < ENOUGH:
            return
        if first:
            self.pace = max(FLOOR, HEADROOM * (self._answered + self._in_use) / elapsed)  # what is under way was let in
        elif self._throttled:
            self.pace = max(FLOOR, self.pace * HEADROOM * self._answered / outcomes)
        elif self.pace < UNLIMITED and outcomes / elapsed > 0.8 * self.pace:  # else nobody wanted more
            self.pace *= GROWTH
        self._answered = self._throttled = 0
