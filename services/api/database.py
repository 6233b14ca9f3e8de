"""The engine, and the migrations of the database behind it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text

MIGRATIONS = Path(__file__).parent / "migrations"


def make_engine(url: str) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,  # they would reach the log with an error
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "options": "-c lock_timeout=20000 -c statement_timeout=60000"},
    )


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Several processes may try at once; one does it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(7205312)"))
        try:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.execute(text("select pg_advisory_unlock(7205312)"))
