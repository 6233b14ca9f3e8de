"""Questions from people"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    now, moment = sa.text("now()"), TIMESTAMP(timezone=True)
    op.create_table(
        "errands",
        sa.Column("id", sa.BigInteger(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("order", JSONB(), nullable=False),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False, server_default="ready"),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("worker", sa.Text()),
        sa.Column("incarnation", sa.Text()),
        sa.Column("text", sa.Text(), nullable=False, server_default=""),
        sa.Column("result", JSONB()),
        sa.Column("error", JSONB()),
        sa.Column("created_at", moment, nullable=False, server_default=now),
        sa.Column("waited_for_at", moment, nullable=False, server_default=now),
        sa.Column("claimed_at", moment),
        sa.Column("heard_at", moment),
        sa.Column("ended_at", moment),
    )
    unanswered = sa.text("status in ('ready', 'claimed')")
    op.create_index("errands_unanswered", "errands", ["service", "id"], postgresql_where=unanswered)
    op.create_index("errands_of_run", "errands", ["run_id"])
