"""What a person looks through: kept results by time, parts and lots by how their names begin."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_SEARCHED = ("part_id", "lot")


def upgrade() -> None:
    """Index what the review asks for, and let PostgreSQL order texts by their signs alone."""
    is_kept = sa.column("kept").is_(True)
    op.create_index(
        "results_kept",
        "results",
        ["verdict", "inspected_at", "id"],
        sqlite_where=is_kept,
        postgresql_where=is_kept,
    )
    op.drop_index("feedback_by_result", "feedback")
    op.create_index("feedback_by_result", "feedback", ["result_id", "id", "kind"])
    if op.get_context().dialect.name == "postgresql":
        for name in _SEARCHED:
            op.execute(f'ALTER TABLE results ALTER COLUMN {name} TYPE varchar(128) COLLATE "C"')


def downgrade() -> None:
    """Put the indexes back as they were, and order the texts by the database's locale."""
    op.drop_index("feedback_by_result", "feedback")
    op.create_index("feedback_by_result", "feedback", ["result_id", "id"])
    op.drop_index("results_kept", "results")
    if op.get_context().dialect.name == "postgresql":
        for name in _SEARCHED:
            op.execute(
                f'ALTER TABLE results ALTER COLUMN {name} TYPE varchar(128) COLLATE "default"'
            )
