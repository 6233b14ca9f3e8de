"""Machines that exist only for a run, each recorded before it is made; the name that this deployment's tags carry"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    now, moment = sa.text("now()"), TIMESTAMP(timezone=True)
    op.create_table("deployment", sa.Column("id", sa.Text(), primary_key=True))
    op.execute("insert into deployment values (left(gen_random_uuid()::text, 13))")
    op.create_table(
        "resources",
        sa.Column("token", sa.Text(), primary_key=True),
        sa.Column("run_id", sa.Text(), nullable=False),  # no foreign key: what a machine costs outlives a deleted run
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False, server_default="intended"),
        sa.Column("external_id", sa.Text()),
        sa.Column("last", JSONB()),
        sa.Column("looks", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("intended_at", moment, nullable=False, server_default=now),
        sa.Column("made_at", moment),
        sa.Column("looked_at", moment),
        sa.Column("look_at", moment, nullable=False, server_default=now),
        sa.Column("gone_at", moment),
    )
    op.create_index("resources_of_run", "resources", ["run_id"])
    op.create_index("resources_left", "resources", ["look_at"], postgresql_where=sa.text("status <> 'gone'"))
    op.create_table(
        "places",
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("region", sa.Text(), primary_key=True),
        sa.Column("look_at", moment, nullable=False, server_default=now),
    )
