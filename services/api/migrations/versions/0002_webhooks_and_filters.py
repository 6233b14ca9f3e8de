"""Up to which event a run's status changes were told; indexes for the filters of the list of runs"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("runs", sa.Column("notified_seq", sa.Integer(), server_default="0", nullable=False))
    op.execute("update runs set notified_seq = seq")  # what has been before is no news
    op.create_index("runs_unnotified", "runs", ["id"], postgresql_where=sa.text("notified_seq < seq"))
    op.create_index("runs_by_status", "runs", ["status", "created_at", "id"])
    op.create_index("runs_by_name", "runs", ["name", "created_at", "id"])
    op.create_index("runs_by_label", "runs", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
