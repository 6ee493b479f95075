"""The line's own program: `recipe` is the settings of a training run alone."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Rename the column."""
    op.execute("ALTER TABLE results RENAME COLUMN recipe TO program")


def downgrade() -> None:
    """Give it its old name."""
    op.execute("ALTER TABLE results RENAME COLUMN program TO recipe")
