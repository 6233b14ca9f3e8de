"""What the teacher cost in a column of its own, for sums; digests in place of Idempotency-Keys"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("runs", sa.Column("usage", JSONB(), sa.Computed("state -> 'usage'", persisted=True)))
    op.execute("update runs set idempotency_key = encode(sha256(convert_to(idempotency_key, 'UTF8')), 'hex')")
