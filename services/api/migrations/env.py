"""Alembic's entry: runs on the connection that `database.migrate` hands over, or on REFLUX_DATABASE_URL by hand."""

from alembic import context
from sqlalchemy import Connection

from services.api.tables import Base


def upgrade(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


if context.config.attributes.get("connection") is not None:
    upgrade(context.config.attributes["connection"])
else:
    from services.api.database import make_engine
    from services.api.settings import Settings

    with make_engine(Settings().database_url.get_secret_value()).connect() as own:
        upgrade(own)
        own.commit()
