"""The engine, and the migrations of the database behind it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

MIGRATIONS = Path(__file__).parent / "migrations"

AWAY = (OperationalError, InterfaceError, PoolTimeout)  # what the same query may not meet in a moment; a wrong query is none
RESTED_SECONDS = 2.0  # a connection that has been in the pool for longer is looked at before it is used


def make_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,  # they would reach the log with an error
        pool_size=10,
        max_overflow=30,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            "client_encoding": "utf8",
            "options": "-c lock_timeout=20000 -c statement_timeout=60000",
        },
    )

    @event.listens_for(engine, "checkin")
    def _rest(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _look(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        """`pool_pre_ping`, without its round trip where the connection was at work just now."""
        if time.monotonic() - record.info.get("since", time.monotonic()) > RESTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError from error

    return engine


@contextmanager
def alone(engine: Engine, lock: int) -> Iterator[bool]:
    """Whether no other process has this advisory lock: then it is ours until the end. No transaction is open meanwhile."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        mine = bool(connection.scalar(text("select pg_try_advisory_lock(:lock)"), {"lock": lock}))
        try:
            yield mine
        finally:
            if mine:
                connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": lock})


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Several processes may try at once; one does it. Exits where it is not in UTF-8."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        encoding = connection.scalar(
            text("select pg_encoding_to_char(encoding) from pg_database where datname = current_database()")
        )
        if encoding != "UTF8":
            sys.exit(f"The database's encoding is {encoding}, which can't hold every text. Make one with ENCODING 'UTF8'.")
        connection.execute(text("select pg_advisory_lock(7205312)"))
        try:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.execute(text("select pg_advisory_unlock(7205312)"))
