"""Browsers that are signed in to the dashboard"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    now = sa.text("now()")
    op.create_table(
        "sign_ins",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("key_digest", sa.Text(), sa.ForeignKey("keys.digest", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=now),
        sa.Column("seen_at", TIMESTAMP(timezone=True), nullable=False, server_default=now),
    )
