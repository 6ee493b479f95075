"""What a line's rules excuse, and what they never do."""

from datetime import UTC, datetime

import pytest

from anomaly.heatmap import MOST_REGIONS
from anomaly.types import Region
from record.labelled import KindRule
from service.kinds.learned import LEAST_EXAMPLES, LEAST_PARTS, KindCount, Learned


def regions(*kinds: str | None) -> list[Region]:
    return [Region((0, 0, 4, 4), 16, (1, 1), (2.0, 2.0), 1.0, kind, 0.5) for kind in kinds]


@pytest.fixture
def learned() -> Learned:
    moment = datetime.now(UTC)
    rule = KindRule(
        model="a", kind="dust", rule="ignore", same_as=None, author=None, changed_at=moment
    )
    count = KindCount(LEAST_EXAMPLES, LEAST_PARTS)
    return Learned(weights="w", rules={"dust": rule}, counts={"dust": count})


def test_only_parts_all_of_whose_regions_are_excused_pass(learned: Learned) -> None:
    assert learned._excuse("NG", regions("dust", "dust")) == "OK"
    for kinds in (("dust", "crack"), ("dust", "unknown"), ("dust", None)):
        assert learned._excuse("NG", regions(*kinds)) is None
    assert learned._excuse("OK", regions("dust")) is None


def test_a_part_of_which_regions_may_be_left_out_is_never_excused(learned: Learned) -> None:
    assert learned._excuse("NG", regions(*["dust"] * (MOST_REGIONS - 1))) == "OK"
    assert learned._excuse("NG", regions(*["dust"] * MOST_REGIONS)) is None
