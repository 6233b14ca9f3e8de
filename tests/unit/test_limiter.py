"""The pace at which a teacher is asked. Where time matters, a clock is handed in."""

import threading
import time

import pytest

from reflux.protocol import Share
from services.teacher_worker.limiter import FLOOR, UNLIMITED, Limiter


def test_nothing_is_limited_before_the_first_throttle() -> None:
    limiter = Limiter(4)
    for _ in range(100):
        with limiter.slot():
            limiter.answered()
    assert limiter.pace == UNLIMITED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_throttles_set_a_pace_and_cost_no_try() -> None:
    clock = Clock()
    limiter = Limiter(10, clock)
    for i in range(50):
        clock.now += 0.1
        limiter.answered() if i % 2 else limiter.throttled()
    assert FLOOR < limiter.pace < 10, "it answers 5 a second"


def test_throttles_cost_a_try_once_the_pace_is_at_its_floor() -> None:
    clock = Clock()
    limiter = Limiter(4, clock)
    costs = []
    for second in range(40):
        clock.now = second
        costs.append(limiter.throttled())
    assert limiter.pace == FLOOR
    assert not costs[0]
    assert costs[-1]
    assert costs == sorted(costs), "once at the floor, it stays there while all is throttled"


def test_the_pace_keeps_to_the_quota_and_recovers() -> None:
    clock, credit = Clock(), 0.0
    limiter = Limiter(100, clock)

    def ask(seconds: float, quota: float) -> tuple[int, int]:
        """Ask as fast as the pace allows, for so long, where `quota` calls a second are answered."""
        nonlocal credit
        answered = throttled = 0
        end = clock.now + seconds
        while clock.now < end:
            step = 1 / min(limiter.pace, 1000.0)
            clock.now += step
            credit = min(5.0, credit + step * quota)
            if credit >= 1:
                credit -= 1
                answered += 1
                limiter.answered()
            else:
                throttled += 1
                limiter.throttled()
        return answered, throttled

    ask(20, quota=20)
    answered, throttled = ask(60, quota=20)
    assert answered >= 0.95 * 60 * 20
    assert throttled <= 0.4 * answered
    ask(60, quota=100)
    answered, _ = ask(60, quota=100)
    assert answered >= 0.9 * 60 * 100


def test_no_more_calls_at_once_than_slots() -> None:
    limiter = Limiter(3)
    lock, at_once, most = threading.Lock(), 0, 0
    barrier = threading.Barrier(12)

    def call() -> None:
        nonlocal at_once, most
        barrier.wait()
        with limiter.slot():
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.01)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_shares_add_up_and_may_change_while_in_use() -> None:
    limiter = Limiter(10)
    mine = 2

    def used() -> int:
        """Take all slots that are free, give them back."""
        taken = []
        while True:
            slot = limiter.slot()
            taken.append(slot)
            thread = threading.Thread(target=slot.__enter__, daemon=True)
            thread.start()
            thread.join(0.2)
            if thread.is_alive():  # it waits, and gets the first that is given back
                taken.pop(0).__exit__(None, None, None)
                thread.join()
                for other in taken:
                    other.__exit__(None, None, None)
                return len(taken)

    assert used() == 10
    with limiter.sharing(lambda: mine):
        assert used() == 2
        with limiter.sharing(lambda: 3):
            assert used() == 5
        mine = 0
        assert used() == 1, "at least one, or nothing would ever end"
        mine = 4
        assert used() == 4
    assert used() == 10


def test_a_share_that_ends_wakes_who_waits() -> None:
    limiter = Limiter(2)
    entered = threading.Event()

    def call() -> None:
        with limiter.slot():
            entered.set()

    with limiter.slot():
        with limiter.sharing(lambda: 1):
            waiting = threading.Thread(target=call)
            waiting.start()
            assert not entered.wait(0.1)
        waiting.join(10)
    assert entered.is_set()


@pytest.mark.parametrize("whole", [1, 2, 10, 64])
@pytest.mark.parametrize("of", [1, 2, 3, 7, 16])
def test_the_parts_of_all_are_the_whole(whole: int, of: int) -> None:
    parts = [Share(place=place, of=of).part(whole) for place in range(of)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_the_earlier_task_is_served_first() -> None:
    limiter = Limiter(1)
    served: list[int] = []

    def call(order: int) -> None:
        with limiter.slot(order):
            served.append(order)

    with limiter.slot():
        threads = []
        for order in (3, 1, 2, 1):
            threads.append(threading.Thread(target=call, args=(order,)))
            threads[-1].start()
            while limiter.waiting < len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert served == [1, 1, 2, 3]
