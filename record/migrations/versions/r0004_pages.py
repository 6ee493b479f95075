"""Indexes ordered by time of inspection, so that a span of time is fast with every filter."""

from alembic import op

revision = "0004"
down_revision = "0003"

_FILTERS = {"model": "model", "camera": "camera", "lot": "lot", "part": "part_id"}
_FILTERS |= {"verdict": "verdict"}


def upgrade() -> None:
    """Make the indexes anew."""
    op.drop_index("results_by_time", "results")
    op.create_index("results_by_time", "results", ["inspected_at", "id"])
    for name, column in _FILTERS.items():
        op.drop_index(f"results_by_{name}", "results")
        op.create_index(f"results_by_{name}", "results", [column, "inspected_at", "id"])


def downgrade() -> None:
    """Put the indexes back as they were."""
    op.drop_index("results_by_time", "results")
    op.create_index("results_by_time", "results", ["inspected_at"])
    for name, column in _FILTERS.items():
        op.drop_index(f"results_by_{name}", "results")
        op.create_index(f"results_by_{name}", "results", [column, "id"])
