"""How often a key may call: a bucket of tokens for each, in this process's memory: two API processes allow twice as much."""

import threading
import time


class Buckets:
    """A full bucket holds a minute's calls, and fills evenly. `per_minute` 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, key: str) -> float:
        """Take a token: 0.0, or if there is none the seconds until there will be one."""
        if not self.per_minute:
            return 0.0
        now = time.monotonic()
        with self._lock:
            left, at = self._left.get(key, (float(self.per_minute), now))
            left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
            self._left[key] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) * 60 / self.per_minute
