"""What a tracking server was told of a run, and what retention took from it"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0012"


def upgrade() -> None:
    run = sa.ForeignKey("runs.id", ondelete="CASCADE")
    op.create_table(
        "tracked",
        sa.Column("run_id", sa.Text(), run, primary_key=True),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.BigInteger(), nullable=False),
    )
    run = sa.ForeignKey("runs.id", ondelete="CASCADE")
    op.create_table(
        "removals",
        sa.Column("run_id", sa.Text(), run, primary_key=True),
        sa.Column("what", sa.Text(), primary_key=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("done_at", sa.TIMESTAMP(timezone=True)),
    )
    op.create_index("removals_undone", "removals", ["at"], postgresql_where=sa.text("done_at is null"))
