"""`GET /v1/models/{name}/kinds`: what defects are called, and what a line does about it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from anomaly.kinds import UNKNOWN_BELOW
from record.labelled import KindRule
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.kinds.learned import KindCount, Learned
from service.kinds.spelling import near
from service.schemas.kinds import KindOut, KindRuleIn, KindsOut, SimilarOut
from service.state import inspector
from service.wire import Label

router = APIRouter(tags=["kinds"])

_RESPONSES = problems(401, 403, 404, 422, 500, 503)
_NOTHING = KindCount(0, 0)


@router.get(
    "/v1/models/{name}/kinds",
    dependencies=[Depends(needs(Role.VIEW))],
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def read_kinds(name: Label, inspector: Annotated[Inspector, Depends(inspector)]) -> KindsOut:
    """Say what a model calls defects, from how many examples, and which names may be one."""
    model = await inspector.engine.registry.acquire(name)
    return _kinds_out(model, inspector.kinds.of(model))


@router.put(
    "/v1/models/{name}/kinds/{kind}",
    dependencies=[Depends(needs(Role.ADMIN))],
    responses=_RESPONSES | problems(409),
    openapi_extra=SECURED,
)
async def set_rule(
    request: Request,
    name: Label,
    kind: Label,
    rule: KindRuleIn,
    *,
    inspector: Annotated[Inspector, Depends(inspector)],
) -> KindOut:
    """Let parts pass on which nothing but this kind was found, or count it as another name.

    Sealed into the audit trail first. Nothing that people said is changed, and both can be taken
    back. Refused for a kind of which too little is known (409 `kind_uncertain`), or nothing (404
    `kind_unknown`).
    """
    model = await inspector.engine.registry.acquire(name)
    changed = KindRule(
        model=name,
        kind=kind,
        rule=rule.rule,
        same_as=rule.same_as,
        author=getattr(request.state, "key", None),
        changed_at=datetime.now(UTC),
    )
    await inspector.kinds.set_rule(model, changed, rule.reason)
    return _kind_out(kind, inspector.kinds.of(model))


def _kinds_out(model: ServedModel, learned: Learned) -> KindsOut:
    kinds = {*learned.counts, *(rule.kind for rule in learned.rules.values())}
    return KindsOut(
        model=model.name,
        version=learned.version,
        weights=learned.weights,
        unknown_below=UNKNOWN_BELOW,
        fitted_at=learned.fitted_at,
        kinds=[_kind_out(kind, learned) for kind in sorted(kinds)],
        similar=list(_similar(sorted(learned.counts))),
        left_out=sum(learned.left_out.values()),
        left_out_because=[f"{count}: {why}" for why, count in sorted(learned.left_out.items())],
    )


def _kind_out(kind: str, learned: Learned) -> KindOut:
    count, rule = learned.counts.get(kind, _NOTHING), learned.rules.get(kind)
    return KindOut(
        kind=kind,
        examples=count.examples,
        parts=count.parts,
        rule="none" if rule is None else rule.rule,
        same_as=None if rule is None else rule.same_as,
    )


def _similar(kinds: list[str]) -> Iterator[SimilarOut]:
    for number, kind in enumerate(kinds):
        for pair in near(kind, kinds[number + 1 :]):
            yield SimilarOut(kind=pair.kind, like=pair.like, ratio=round(pair.ratio, 3))
