"""Whether what the API stands on answers: the database, the broker, the artifact store."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import obstore
import redis
import structlog
from sqlalchemy import Engine, text

from reflux.artifacts import Artifacts
from services.api.settings import Settings

log = structlog.get_logger()

PATIENCE_SECONDS = 1.5  # together; whoever asks waits for a few seconds only


class Readiness:
    """Asks all at once. A check that hangs is not begun a second time; until it ends, its dependency counts as away."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.checks: dict[str, Callable[[], None]] = {
            "database": self._database,
            "broker": self._broker,
            "artifacts": self._artifacts,
        }
        self.pool = ThreadPoolExecutor(len(self.checks), thread_name_prefix="ready")
        self.running: dict[str, Future[None]] = {}

    def look(self) -> dict[str, str]:
        """By dependency `ok` or `away`."""
        for name, check in self.checks.items():
            if name not in self.running or self.running[name].done():
                self.running[name] = self.pool.submit(check)
        wait(self.running.values(), PATIENCE_SECONDS)
        return {name: self._told(name, check) for name, check in list(self.running.items())}

    def _told(self, name: str, check: Future[None]) -> str:
        error = check.exception() if check.done() else TimeoutError(f"no answer within {PATIENCE_SECONDS} s")
        if error is not None:
            log.info("dependency_away", dependency=name, error=str(error)[:200])
        return "away" if error else "ok"

    def _database(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("select 1"))

    def _broker(self) -> None:
        url = self.settings.broker_url.get_secret_value()
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as broker:
            broker.ping()

    def _artifacts(self) -> None:
        try:
            obstore.head(Artifacts(self.settings.artifacts_url).store, "ready")
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
