"""Taking back what was said of a result."""

import pytest

from record.result import Discussed
from service.errors import FeedbackContradicts, RoleInsufficient
from service.feedback import FeedbackIn
from tests.record.test_store import NOON, result, spoken
from tests.service.recalibration.test_reviewer import changed, discussed

DAY_S = 86_400


@pytest.mark.parametrize(
    ("verdict", "before", "is_sealed"),
    [
        ("NG", "false_alarm", False),
        ("OK", "confirmed_good", False),
        ("OK", "missed_defect", True),
        ("NG", "confirmed_defect", True),
    ],
)
def test_what_was_said_is_withdrawn_and_sealed_where_it_was_a_case(
    verdict: str, before: str, is_sealed: bool
) -> None:
    change = changed(discussed(verdict, before), "withdrawn", is_admin=True, after_s=DAY_S)
    assert (change.before, change.after, change.is_sealed) == (before, 7, is_sealed)
    assert not change.is_given_up


def test_a_fresh_mistake_is_withdrawn_by_who_made_it_and_later_by_an_admin() -> None:
    case = discussed("NG", "confirmed_defect")
    assert changed(case, "withdrawn", is_admin=False, after_s=600).is_sealed
    for author, after_s in (("q", 601), ("somebody else", 1)):
        with pytest.raises(RoleInsufficient, match="10 minutes"):
            changed(case, "withdrawn", is_admin=False, author=author, after_s=after_s)
        assert changed(case, "withdrawn", is_admin=True, author=author, after_s=after_s).is_sealed
    with pytest.raises(RoleInsufficient):  # only as withdrawn
        changed(case, "false_alarm", is_admin=False, after_s=1)


def test_saying_an_old_confirmation_again_does_not_make_it_a_fresh_mistake() -> None:
    first = spoken(1, "confirmed_defect", id=1, author="quality")
    again = spoken(1, "confirmed_defect", id=2, author="q")
    judged = result(1, verdict="NG", calibrated_verdict="NG")
    with pytest.raises(RoleInsufficient):
        changed(Discussed(judged, (again, first)), "withdrawn", is_admin=False)
    between = spoken(1, "false_alarm", id=2, author="admin")
    anew = spoken(1, "confirmed_defect", id=3, author="q", created_at=NOON)
    assert changed(Discussed(judged, (anew, between, first)), "withdrawn", is_admin=False).is_sealed


def test_after_a_withdrawal_it_is_as_if_nobody_had_spoken() -> None:
    case = discussed("NG", "withdrawn", "confirmed_defect")
    with pytest.raises(FeedbackContradicts, match="could be withdrawn"):
        changed(case, "withdrawn", is_admin=True)
    change = changed(case, "false_alarm", is_admin=False)
    assert (change.before, change.after, change.is_sealed) == (None, 7, False)
    assert changed(case, "confirmed_defect", is_admin=False).is_sealed


def test_a_withdrawal_names_no_defect() -> None:
    with pytest.raises(ValueError, match="names no defect"):
        FeedbackIn(kind="withdrawn", defect="pore")
