"""What people say of results, and when that changes the cases that test new versions."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from record.result import Discussed, Feedback, JsonObject, Result
from service.errors import FeedbackContradicts, RoleInsufficient
from service.wire import Label, Text

FeedbackKind = Literal["false_alarm", "confirmed_defect", "missed_defect", "confirmed_good"]


class FeedbackIn(BaseModel):
    """What somebody found who looked at the part."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[
        FeedbackKind,
        Field(
            description="false_alarm and confirmed_defect of NG results; "
            "missed_defect and confirmed_good of those that passed."
        ),
    ]
    defect: Annotated[Label | None, Field(description="Its name: scratch, pore, …")] = None
    comment: Text | None = None


class FeedbackOut(FeedbackIn):
    """Feedback as it is stored."""

    created_at: datetime
    author: Annotated[str | None, Field(description="The API key's name.")]

    @classmethod
    def of(cls, entry: Feedback) -> "FeedbackOut":
        """Convert stored feedback."""
        return cls.model_validate(entry, from_attributes=True)


# What may be said of a result, by its verdict: WARN lets a part pass, and asks for a look.
_SAYABLE: dict[str, tuple[str, ...]] = {
    "OK": ("confirmed_good", "missed_defect"),
    "WARN": ("confirmed_good", "missed_defect"),
    "NG": ("false_alarm", "confirmed_defect"),
}
_CASES = ("confirmed_defect", "missed_defect")


def is_held_against(result: Result, kind: str | None) -> bool:
    """Whether new versions must reject a result of which this was said.

    A confirmed defect; and one that only a request's own threshold let pass: its calibration
    rejected it.
    """
    rejected = result.calibrated_verdict == "NG"
    return kind == "confirmed_defect" or (kind == "missed_defect" and rejected)


@dataclass(frozen=True, slots=True)
class Change:
    """What feedback changes; `after` is the number of the feedback before it, 0 for none.

    `is_sealed`: the cases change, and the audit trail has it. `is_given_up`: nothing is kept of the
    result, so that no version is held against it any more.
    """

    before: str | None
    kind: str
    after: int
    is_given_up: bool

    @property
    def is_sealed(self) -> bool:
        """Whether the cases change."""
        moves = self.before != self.kind and (self.before in _CASES or self.kind in _CASES)
        return moves or (self.is_given_up and self.kind in _CASES)

    @property
    def details(self) -> JsonObject:
        """What the audit trail says of it."""
        return {"before": self.before, "kind": self.kind, "given_up": self.is_given_up}


def change_of(discussed: Discussed, kind: str, *, is_admin: bool, is_there: bool) -> Change:
    """Say what feedback on a result changes; `is_there` is whether its image and evidence are.

    Raises `FeedbackContradicts` where the verdict forbids it, and `RoleInsufficient` where somebody
    who is no admin would take a confirmed defect back.
    """
    result, last = discussed.result, next(iter(discussed.feedback), None)
    if kind not in _SAYABLE[result.verdict]:
        raise FeedbackContradicts(
            f"of a result that was {result.verdict} may be said: "
            f"{', '.join(_SAYABLE[result.verdict])}"
        )
    before = None if last is None else last.kind
    if is_held_against(result, before) and not is_held_against(result, kind) and not is_admin:
        raise RoleInsufficient(
            "new versions are held against this defect, which was confirmed; only an admin "
            "takes it back"
        )
    # Gone before anybody spoke of it, it was never a case; later, an admin takes note by saying it
    # again.
    given_up = not is_there and (last is None or is_admin)
    return Change(before, kind, 0 if last is None or last.id is None else last.id, given_up)
