"""What people say of results, and when that changes the cases that test new versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from record.result import WITHDRAWN, Discussed, Feedback, JsonObject, Result
from service.errors import FeedbackContradicts, RoleInsufficient
from service.wire import Label, Text

FeedbackKind = Literal["false_alarm", "confirmed_defect", "missed_defect", "confirmed_good"]
_MISTAKEN_FOR = timedelta(minutes=10)  # in which who confirmed a defect may withdraw it


class FeedbackIn(BaseModel):
    """What somebody found who looked at the part."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[
        FeedbackKind | Literal["withdrawn"],
        Field(
            description="false_alarm and confirmed_defect of NG results; "
            "missed_defect and confirmed_good of those that passed; withdrawn where nothing is to "
            "be said after all."
        ),
    ]
    defect: Annotated[Label | None, Field(description="Its name: scratch, pore, …")] = None
    regions: Annotated[
        list[Annotated[int, Field(ge=0, lt=50)]] | None,
        Field(
            min_length=1,
            max_length=50,
            description="Which of the result's regions the name is of, counted from 0; left out, "
            "those whose peak is at least half of the highest.",
        ),
    ] = None
    comment: Text | None = None

    @model_validator(mode="after")
    def _names_what_is_there(self) -> Self:
        if self.kind == WITHDRAWN and self.defect is not None:
            raise ValueError("what is withdrawn names no defect")
        if self.regions is not None and self.defect is None:
            raise ValueError("regions are those that a name is of: give 'defect', too")
        return self


class FeedbackOut(FeedbackIn):
    """Feedback as it is stored."""

    created_at: datetime
    author: Annotated[str | None, Field(description="The API key's name.")]
    notes: Annotated[
        list[str], Field(description="What is odd about it: a name that may be misspelt.")
    ] = []

    @classmethod
    def of(cls, entry: Feedback, notes: Sequence[str] = ()) -> "FeedbackOut":
        """Convert stored feedback."""
        out = cls.model_validate(entry, from_attributes=True)
        return out.model_copy(update={"notes": list(notes)})


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


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks of a result, and when; `author` is the API key's name."""

    author: str | None
    is_admin: bool
    at: datetime


def change_of(discussed: Discussed, kind: str, speaker: Speaker, *, is_there: bool) -> Change:
    """Say what feedback on a result changes; `is_there` is whether its image and evidence are.

    Raises `FeedbackContradicts` where the verdict forbids it or there is nothing to withdraw, and
    `RoleInsufficient` where somebody who is no admin would take a confirmed defect back, unless it
    is a fresh mistake of their own.
    """
    result, last = discussed.result, next(iter(discussed.feedback), None)
    before = None if last is None or last.kind == WITHDRAWN else last.kind
    _check_fits(result, before, kind)
    is_taken_back = is_held_against(result, before) and not is_held_against(result, kind)
    is_allowed = speaker.is_admin or (kind == WITHDRAWN and _is_mistake(discussed, speaker))
    if is_taken_back and not is_allowed:
        raise RoleInsufficient(
            "new versions are held against this defect, which was confirmed; only an admin "
            f"takes it back, or who confirmed it within {_MISTAKEN_FOR.seconds // 60} minutes "
            f"('{WITHDRAWN}')"
        )
    # Gone before anybody spoke of it, it was never a case; later, an admin takes note by saying it
    # again.
    is_noted = kind != WITHDRAWN and (before is None or speaker.is_admin)
    after = 0 if last is None or last.id is None else last.id
    return Change(before, kind, after, is_given_up=not is_there and is_noted)


def _check_fits(result: Result, before: str | None, kind: str) -> None:
    if kind == WITHDRAWN:
        if before is None:
            raise FeedbackContradicts("nothing is said of this result that could be withdrawn")
    elif kind not in _SAYABLE[result.verdict]:
        raise FeedbackContradicts(
            f"of a result that was {result.verdict} may be said: "
            f"{', '.join(_SAYABLE[result.verdict])}"
        )


def _is_mistake(discussed: Discussed, speaker: Speaker) -> bool:
    """Whether all that made a result a case was said by this speaker just now.

    Who merely says again what somebody else confirmed long ago does not own it by that.
    """
    held = takewhile(
        lambda entry: is_held_against(discussed.result, entry.kind), discussed.feedback
    )
    return all(
        entry.author == speaker.author and speaker.at - entry.created_at <= _MISTAKEN_FOR
        for entry in held
    )
