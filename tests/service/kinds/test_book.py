"""The book of kinds by itself: what goes wrong with one model or part holds up no other."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from anomaly.errors import ScoreNotFinite
from anomaly.kinds import Examples
from record.audit import Audit, AuditBroken
from record.labelled import KindRule
from service.errors import BudgetSpent, InferenceFailed, OverBudget
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.kinds.book import KindBook, _Sources
from service.kinds.material import WAITING, Described, Material
from service.metrics import Metrics
from service.results.recording import Recording
from service.workers import WorkTooSlow


@dataclass
class _Bundle:
    examples: Any = None
    weights: str = "w1"
    digest: str = "d1"


@dataclass
class _Model:
    name: str
    bundle: _Bundle = field(default_factory=_Bundle)


def taught(*kinds: str) -> Examples:
    vectors = np.eye(len(kinds), 8, dtype=np.float32)
    return Examples(vectors, kinds, tuple(f"p{i}" for i in range(len(kinds))))


def book_of(*models: _Model, audit: Audit | None = None) -> KindBook:
    registry = cast(Registry, SimpleNamespace(active=list(models)))
    return KindBook(registry, None, Metrics(), audit)


async def _undescribed(data: bytes, model: ServedModel, camera: str | None) -> Described | None:
    raise AssertionError("nothing is to be inspected")


def learn(book: KindBook, model: _Model) -> set[str]:
    asyncio.run(book.learn(cast(ServedModel, model), _undescribed))
    return set(book.of(cast(ServedModel, model)).counts)


def test_a_model_that_cannot_be_learned_holds_up_no_other() -> None:
    broken = _Model("a", _Bundle(replace(taught("x", "y"), vectors=np.full((2, 8), np.nan))))
    sound = _Model("b", _Bundle(taught("dent", "crack")))
    book = book_of(broken, sound)
    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(asyncio.wait_for(book.run(_undescribed), 30))
    assert len(failed.value.exceptions) == 1
    assert set(book.of(cast(ServedModel, sound)).counts) == {"dent", "crack"}


def test_a_damaged_audit_trail_keeps_what_was_learned_before() -> None:
    def add(*row: object, **details: object) -> None:
        raise AuditBroken("the head is damaged")

    audit = cast(Audit, SimpleNamespace(newest=lambda *which: [], add=add))
    assert learn(book_of(audit=audit), _Model("a", _Bundle(taught("dent")))) == set()


def test_a_version_with_other_examples_and_the_same_weights_is_learned_anew() -> None:
    book, model = book_of(), _Model("a", _Bundle(taught("dent")))
    assert learn(book, model) == {"dent"}
    model.bundle = _Bundle(taught("dent", "crack"), digest="d2")
    assert learn(book, model) == {"dent", "crack"}


def test_a_rule_that_is_taken_back_while_kinds_are_learned_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, book = _Model("a", _Bundle(taught("dent"))), book_of()
    rule = KindRule(
        model="a",
        kind="dent",
        rule="ignore",
        same_as=None,
        author=None,
        changed_at=datetime.now(UTC),
    )
    answers = iter([_Sources(1, {"dent": rule}), _Sources(1, {})])

    async def heard(model: ServedModel) -> _Sources:
        return next(answers)

    monkeypatch.setattr(book, "_heard", heard)
    learn(book, model)
    assert book.of(cast(ServedModel, model)).rules == {}


class _Kept:
    """A record that keeps images, and no evidence that fits."""

    async def evidence(self, results: list[Any]) -> list[Any]:
        return [SimpleNamespace(weights="before", vectors=None) for _ in results]

    async def image(self, result: Any) -> bytes:
        return b"image"


def named(*result_ids: str) -> Any:
    return [
        SimpleNamespace(
            result=SimpleNamespace(result_id=result_id, camera=None, regions=[]),
            name="dent",
            regions=None,
            number=number,
        )
        for number, result_id in enumerate(result_ids)
    ]


def gathered(material: Material, parts: Any, describe: Callable[..., Any]) -> None:
    recording = cast(Recording, _Kept())
    asyncio.run(material.gather(recording, cast(ServedModel, _Model("a")), parts, describe))


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (BudgetSpent("full", 1.0), True),
        (InferenceFailed("device"), True),
        (OverBudget("too large"), False),
        (WorkTooSlow("slow"), False),
        (ScoreNotFinite("nan"), False),
    ],
)
def test_a_part_that_is_not_inspected_anew_ends_nothing(
    error: Exception, *, is_tried_again: bool
) -> None:
    async def describe(*which: object) -> Described:
        raise error

    material = Material("now")
    gathered(material, named("p1"), describe)
    _, left_out = material.examples(named("p1"), {"dent": "dent"})
    assert (WAITING in left_out) == is_tried_again
    assert sum(left_out.values()) == 1


def test_descriptions_of_parts_that_are_labelled_no_more_are_let_go() -> None:
    async def describe(*which: object) -> Described:
        region = {"bbox": (0, 0, 4, 4), "peak_score": 1.0}
        return Described([region], np.ones((1, 8), np.float32))

    material = Material("now")
    gathered(material, named("p1", "p2"), describe)
    gathered(material, named("p2", "p3"), describe)
    assert set(material.described) == {"p2", "p3"}


def test_what_a_folder_calls_unknown_teaches_nothing_and_spoils_nothing() -> None:
    assert learn(book_of(), _Model("a", _Bundle(taught("unknown", "dent")))) == {"dent"}
    assert learn(book_of(), _Model("a", _Bundle(taught("unknown")))) == set()
