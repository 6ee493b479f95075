"""Which calibration judged a result, and whether its image was to be kept."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; of older results neither is known."""
    op.add_column("results", sa.Column("calibration", sa.String(64)))
    op.add_column("results", sa.Column("kept", sa.Boolean))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("results", "kept")
    op.drop_column("results", "calibration")
