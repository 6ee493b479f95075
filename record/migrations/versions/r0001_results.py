"""Results."""

import sqlalchemy as sa
from alembic import op

from record.tables import Moment

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table of results."""
    op.create_table(
        "results",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("result_id", sa.String(32), nullable=False, unique=True),
        sa.Column("idempotency_key", sa.String(128), unique=True),
        sa.Column("inspected_at", Moment, nullable=False),
        sa.Column("triggered_at", Moment),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("part_id", sa.String(128)),
        sa.Column("camera", sa.String(128)),
        sa.Column("lot", sa.String(128)),
        sa.Column("recipe", sa.String(128)),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("is_anomalous", sa.Boolean, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("p_value", sa.Float, nullable=False),
        sa.Column("score_std", sa.Float, nullable=False),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.Column("timings", sa.JSON, nullable=False),
        sa.Column("image_sha256", sa.String(64), nullable=False),
    )
    op.create_index("results_by_time", "results", ["inspected_at"])
    for name in ("model", "camera", "lot", "verdict"):
        op.create_index(f"results_by_{name}", "results", [name, "id"])
    op.create_index("results_by_part", "results", ["part_id", "id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("results")
