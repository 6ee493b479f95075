"""When feedback was given, and by whom, under the usual names."""

from alembic import op

revision = "0006"
down_revision = "0005"

_NAMES = {"said_at": "created_at", "said_by": "author"}


def upgrade() -> None:
    """Rename the columns."""
    for before, after in _NAMES.items():
        op.execute(f"ALTER TABLE feedback RENAME COLUMN {before} TO {after}")


def downgrade() -> None:
    """Give them their old names."""
    for before, after in _NAMES.items():
        op.execute(f"ALTER TABLE feedback RENAME COLUMN {after} TO {before}")
