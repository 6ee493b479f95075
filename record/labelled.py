"""What people call defects, and what a line does with defects of such a name."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import and_, delete, exists, insert, select

from record.filters import is_last_said
from record.result import Result
from record.store import Store
from record.tables import feedback, kind_rules, results

Rule = Literal["none", "warn", "ignore"]
_DEFECTS = ("confirmed_defect", "missed_defect")


@dataclass(frozen=True, slots=True)
class Named:
    """A defect with the name that was given to it last.

    `regions` are those that it names, None where nobody said which; `number` is the feedback's.
    """

    result: Result
    name: str
    regions: tuple[int, ...] | None
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRule:
    """What is done with parts that have this kind of defect alone, and what else it is called.

    `ignore` lets them pass, `warn` asks for a look. Examples of `kind` count as those of `same_as`:
    a misspelling is set right, and what was said stays as it was said.
    """

    model: str
    kind: str
    rule: Rule
    same_as: str | None
    author: str | None
    changed_at: datetime


def named_defects(store: Store, model: str, limit: int) -> list[Named]:
    """Return the defects of a model's parts that were named last, the oldest first."""
    of_model = exists().where(results.c.result_id == feedback.c.result_id, results.c.model == model)
    named = (
        select(feedback.c.id, feedback.c.result_id, feedback.c.defect, feedback.c.regions)
        .where(feedback.c.kind.in_(_DEFECTS), feedback.c.defect.is_not(None), is_last_said())
        .where(of_model)
        .order_by(feedback.c.id.desc())
        .limit(limit)
    )
    with store.snapshot() as ask:
        rows = list(reversed(ask(named)))
    by_id = {result.result_id: result for result in store.by_ids([r["result_id"] for r in rows])}
    return [
        Named(by_id[row["result_id"]], row["defect"], _numbers(row["regions"]), row["id"])
        for row in rows
        if row["result_id"] in by_id
    ]


def kind_rules_of(store: Store, model: str) -> dict[str, KindRule]:
    """Return the rules of a model's kinds, by kind."""
    with store.snapshot() as ask:
        rows = ask(select(kind_rules).where(kind_rules.c.model == model))
    return {row["kind"]: KindRule(**row) for row in rows}


def set_kind_rule(store: Store, rule: KindRule) -> None:
    """Store a rule in place of the one before."""
    before = and_(kind_rules.c.model == rule.model, kind_rules.c.kind == rule.kind)
    with store.change() as connection:
        connection.execute(delete(kind_rules).where(before))
        connection.execute(insert(kind_rules).values(**asdict(rule)))


def _numbers(regions: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if regions is None else tuple(regions)
