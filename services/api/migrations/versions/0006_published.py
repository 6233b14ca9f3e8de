"""Up to which event a run was published on the stream"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("runs", sa.Column("published_seq", sa.Integer(), server_default="0", nullable=False))
    op.execute("update runs set published_seq = seq")  # what has been before is no news
    op.create_index("runs_unpublished", "runs", ["id"], postgresql_where=sa.text("published_seq < seq"))
