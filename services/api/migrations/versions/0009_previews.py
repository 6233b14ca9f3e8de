"""Errands of no run: people look at data before there is one"""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.alter_column("errands", "run_id", nullable=True)
    op.alter_column("errands", "spec", nullable=True)
