"""What people said of results."""

import sqlalchemy as sa
from alembic import op

from record.tables import Moment

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table of feedback."""
    op.create_table(
        "feedback",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("result_id", sa.String(32), sa.ForeignKey("results.result_id"), nullable=False),
        sa.Column("said_at", Moment, nullable=False),
        sa.Column("said_by", sa.String(128)),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("defect", sa.String(128)),
        sa.Column("comment", sa.String(1000)),
    )
    op.create_index("feedback_by_result", "feedback", ["result_id", "id"])
    op.create_index("feedback_by_kind", "feedback", ["kind", "id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("feedback")
