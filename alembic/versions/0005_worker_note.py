"""Why a worker trains on the CPU, or why it left; older code leaves it empty."""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("note", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "note")
