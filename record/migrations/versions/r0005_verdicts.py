"""What a request with an idempotency key was, and the calibration's own verdict on every part."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_WIDTHS = {"idempotency_key": (128, 512), "model": (128, 255)}


def upgrade() -> None:
    """Add the columns, unknown of older results; keys stand beside caller and camera from now on.

    A key that was stored alone never equals one of the new texts, which begin with a bracket.
    """
    op.add_column("results", sa.Column("fingerprint", sa.String(64)))
    op.add_column("results", sa.Column("calibrated_verdict", sa.String(8)))
    if op.get_context().dialect.name == "postgresql":
        for name, (before, after) in _WIDTHS.items():
            op.alter_column(
                "results", name, type_=sa.String(after), existing_type=sa.String(before)
            )


def downgrade() -> None:
    """Drop the columns; texts may stay wider than they were."""
    op.drop_column("results", "calibrated_verdict")
    op.drop_column("results", "fingerprint")
