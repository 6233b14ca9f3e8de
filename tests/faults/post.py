"""A bad postman for rings: control rings into one Valkey database, workers hear another, and this carries between them."""

import random
import threading
import time
from typing import Literal

import redis

QUEUES = ("teacher_worker", "evaluator", "gpu_trainer")

Mood = Literal["honest", "doubling", "dropping", "late", "shuffling"]


class Post:
    """`rings_url` is for control alone; workers hear database 0 of the Valkey at `port`."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.rings_url = f"redis://127.0.0.1:{port}/1"
        self.mood: Mood = "honest"
        self._from, self._to = (redis.Redis(port=port, db=number) for number in (1, 0))
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._bag: list[tuple[float, str, bytes]] = []

    def __enter__(self) -> "Post":
        self._thread = threading.Thread(target=self._carry, name="post", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._from.close()
        self._to.close()

    def _carry(self) -> None:
        while not self._over.wait(0.005):
            try:
                for queue in QUEUES:
                    while message := self._from.rpop(queue):
                        assert isinstance(message, bytes)
                        self._take(queue, message)
                self._deliver()
            except redis.RedisError:
                self._over.wait(0.2)

    def _take(self, queue: str, message: bytes) -> None:
        now = time.monotonic()
        match self.mood:
            case "dropping" if self._random.random() < 0.5:
                return
            case "late":
                now += self._random.uniform(0.5, 4)
            case "shuffling":
                now += self._random.uniform(0, 1)
        copies = 3 if self.mood == "doubling" else 1
        self._bag += [(now + 0.3 * copy, queue, message) for copy in range(copies)]

    def _deliver(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._bag if item[0] <= now]:
            self._to.lpush(item[1], item[2])
            self._bag.remove(item)
