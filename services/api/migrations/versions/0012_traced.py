"""Up to which event a run was traced"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("runs", sa.Column("traced_seq", sa.Integer(), server_default="0", nullable=False))
    op.create_index("runs_untraced", "runs", ["ended_at"], postgresql_where=sa.text("traced_seq < seq"))
