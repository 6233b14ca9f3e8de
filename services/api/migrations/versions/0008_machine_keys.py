"""Keys that are good for one run alone, while it lives"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("keys", sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id", ondelete="CASCADE")))
    op.create_index("keys_of_run", "keys", ["run_id"], postgresql_where=sa.text("run_id is not null"))
