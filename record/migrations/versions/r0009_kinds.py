"""Which regions a defect's name is of, and what is to be done with kinds of defects."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Let feedback say which regions it names, and rules of kinds be stored."""
    op.add_column("feedback", sa.Column("regions", sa.JSON()))
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "kind_rules",
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("kind", sa.String(128), primary_key=True),
        sa.Column("rule", sa.String(8), nullable=False),
        sa.Column("same_as", sa.String(128)),
        sa.Column("author", sa.String(128)),
        sa.Column("changed_at", moment, nullable=False),
    )


def downgrade() -> None:
    """Forget both."""
    op.drop_table("kind_rules")
    op.drop_column("feedback", "regions")
