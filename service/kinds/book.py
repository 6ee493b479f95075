"""Keeps what is learned of each model's kinds up to date, while parts are inspected.

What people say of parts is the only thing that is stored; the rest follows from it. So a restart,
a rollback and another replica come to the same: a head is learned anew from the labelled parts
whenever somebody spoke, in a thread, and switched by one assignment. Nothing that an inspection
does waits for it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from anomaly.kinds import Examples, KindHead, fit_kinds
from record.audit import Audit, AuditBroken
from record.labelled import KindRule, Named, kind_rules_of, named_defects, set_kind_rule
from record.store import Store, StoreError
from service.errors import AuditUnwritable, KindUncertain, KindUnknown, NothingRecorded
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.kinds.learned import LEAST_EXAMPLES, LEAST_PARTS, KindCount, Learned
from service.kinds.material import WAITING, Describe, Material
from service.kinds.spelling import folded, near, spellings
from service.logs import ACTOR
from service.metrics import Metrics
from service.results.recording import Recording

_log = logging.getLogger(__name__)
_LOOK_S = 2.0  # between looks for what people said elsewhere
_MOST_LABELLED = 3000  # parts, the newest
_ROWS = 200  # of the audit trail's end, in which what was learned last is looked for
_ACTION = "kinds"


@dataclass(frozen=True, slots=True)
class _Sources:
    """What one model's kinds rest on.

    The feedback's last number, the rules of the kinds, and the version that serves: another one may
    have other examples in its folder with the same weights.
    """

    number: int = 0
    rules: Mapping[str, KindRule] = field(default_factory=dict)
    digest: str = ""


class KindBook:
    """What regions are called; `recording` and `audit` are None where nothing is recorded.

    Then there is nothing but what lies in a model's folder.
    """

    def __init__(
        self,
        registry: Registry,
        recording: Recording | None,
        metrics: Metrics,
        audit: Audit | None,
    ) -> None:
        self._registry = registry
        self._recording = recording
        self._metrics = metrics
        self._audit = audit
        self._learned: dict[str, Learned] = {}  # by model
        self._sources: dict[str, _Sources] = {}  # that it rests on
        self._material: dict[str, Material] = {}
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()

    def of(self, model: ServedModel) -> Learned:
        """Return what is known of a model's kinds now; nothing of one with other weights."""
        learned = self._learned.get(model.name)
        if learned is None or learned.weights != model.bundle.weights:
            return Learned(weights=model.bundle.weights)
        return learned

    def notes(self, model: str, name: str) -> list[str]:
        """Say what is odd about a name that somebody gives: it may be another one misspelt."""
        learned = self._learned.get(model)
        if learned is None or name in learned.names or folded(name) in map(folded, learned.names):
            return []
        return [
            f"{name!r} is new; {other.like!r} has {learned.counts[other.like].examples} examples: "
            "say it again with that name if it is the same"
            for other in near(name, list(learned.counts))[:1]
        ]

    def wake(self) -> None:
        """Learn anew soon: somebody spoke."""
        self._woken.set()

    async def run(self, describe: Describe) -> None:
        """Learn whenever somebody spoke or other weights serve, here or elsewhere."""
        while True:
            await self._learn_all(describe)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._woken.wait()
            self._woken.clear()

    async def _learn_all(self, describe: Describe) -> None:
        """Learn every model's kinds; one of which they cannot be learned holds up no other."""
        failures: list[Exception] = []
        for model in self._registry.active:
            try:
                await self.learn(model, describe)
            except Exception as error:  # noqa: BLE001  (raised again, once the others have had their turn)
                failures.append(error)
        if failures:
            raise ExceptionGroup("the kinds of some models are not learned anew", failures)

    async def learn(self, model: ServedModel, describe: Describe) -> None:
        """Learn a model's kinds, unless nobody spoke since; where that fails, all stays as it is.

        What is learned is sealed into the audit trail before it names anything.
        """
        async with self._turn:
            try:
                sources = await self._heard(model)
                learned = self.of(model)
                is_waiting = WAITING in learned.left_out
                if (
                    self._sources.get(model.name) == sources
                    and learned.is_learned
                    and not is_waiting
                ):
                    return
                fresh = await self._learn(model, sources, describe)
                await asyncio.to_thread(self._seal, model.name, fresh)
                # It took a while: a rule that was taken back meanwhile excuses nothing any more.
                rules = (await self._heard(model)).rules
            except (StoreError, OSError, AuditBroken) as error:
                _log.warning("kinds of model %s are not learned anew: %s", model.name, error)
                return
            self._learned[model.name] = replace(fresh, rules=rules)
            self._sources[model.name] = sources
            counts = {kind: count.examples for kind, count in fresh.counts.items()}
            self._metrics.count_examples(model.name, counts)

    async def _heard(self, model: ServedModel) -> _Sources:
        name, digest = model.name, model.bundle.digest
        if self._recording is None:
            return _Sources(digest=digest)

        def question(store: Store) -> _Sources:
            return _Sources(store.last_feedback(), kind_rules_of(store, name), digest)

        return await self._recording.reader.ask(question)

    async def _learn(self, model: ServedModel, sources: _Sources, describe: Describe) -> Learned:
        material = self._material.get(model.name)
        if material is None or material.weights != model.bundle.weights:
            material = self._material[model.name] = Material(model.bundle.weights)
        labelled: Sequence[Named] = ()
        if self._recording is not None:
            labelled = await self._recording.reader.ask(
                lambda store: named_defects(store, model.name, _MOST_LABELLED)
            )
            await material.gather(self._recording, model, labelled, describe)
        folder = model.bundle.examples
        of_folder = () if folder is None else folder.kinds
        same_as = {rule.kind: rule.same_as for rule in sources.rules.values() if rule.same_as}
        names = spellings([*of_folder, *(item.name for item in labelled)], same_as)
        examples, left_out = material.examples(labelled, names)
        of_both = [None if folder is None else folder.renamed(names), examples]
        parts = [examples for examples in of_both if examples is not None]
        before = self.of(model).head
        head, counts = await asyncio.to_thread(_fitted, parts, before)
        return Learned(
            weights=model.bundle.weights,
            head=head,
            rules=sources.rules,
            counts=counts,
            names=names,
            left_out=left_out,
            fitted_at=datetime.now(UTC),
        )

    def _seal(self, name: str, learned: Learned) -> None:
        """Write down what was learned, unless the trail says so already. Raises `OSError`."""
        if self._audit is None or learned.version is None:
            return
        sealed = (row for row in self._audit.newest(_ROWS, name) if row["action"] == _ACTION)
        last = next(sealed, None)
        if last is not None and last["details"].get("version") == learned.version:
            return
        details = {
            "version": learned.version,
            "weights": learned.weights,
            "examples": {kind: count.examples for kind, count in learned.counts.items()},
        }
        self._audit.add(_ACTION, name, ACTOR.get(), **details)

    async def set_rule(self, model: ServedModel, rule: KindRule, reason: str | None) -> None:
        """Store what is to be done with a kind, sealed into the audit trail first.

        Raises `NothingRecorded`, `KindUnknown`, `KindUncertain`, `AuditUnwritable`, `StoreError`.
        """
        if self._recording is None or self._audit is None:
            raise NothingRecorded(
                "this service keeps no results (MASKLINE_RECORD=off), so that a rule could neither "
                "be sealed nor kept"
            )
        learned = self.of(model)
        _check_rule(learned, rule)
        before = learned.rules.get(rule.kind)
        details = {
            "model": rule.model,
            "rule": rule.rule,
            "same_as": rule.same_as,
            "before": "none" if before is None else before.rule,
            "reason": reason,
        }
        audit = self._audit
        try:
            await asyncio.to_thread(audit.add, "kind_rule", rule.kind, ACTOR.get(), **details)
        except (OSError, AuditBroken) as error:
            why = getattr(error, "strerror", None) or error
            raise AuditUnwritable(
                f"the audit trail cannot be written ({why}), so nothing is changed"
            ) from error
        await self._recording.reader.ask(lambda store: set_kind_rule(store, rule))
        learned = self.of(model)  # something may have been learned meanwhile
        rules = {**learned.rules, rule.kind: rule}
        self._learned[model.name] = replace(learned, rules=rules)
        self.wake()


def _fitted(
    parts: Sequence[Examples], before: KindHead | None
) -> tuple[KindHead | None, dict[str, KindCount]]:
    """Learn from examples of several sources, unless they are those of before."""
    if not parts:
        return None, {}
    examples = Examples.joined(parts).bounded()
    of_kind: dict[str, set[str]] = {}
    for kind, part in zip(examples.kinds, examples.parts, strict=True):
        of_kind.setdefault(kind, set()).add(part)
    counts = {kind: KindCount(examples.counts[kind], len(of_kind[kind])) for kind in of_kind}
    if before is not None and before.digest == examples.digest:
        return before, counts
    return fit_kinds(examples), counts


def _check_rule(learned: Learned, rule: KindRule) -> None:
    if rule.kind not in learned.names and rule.kind not in learned.counts:
        named = ", ".join(sorted(learned.counts)) or "none yet"
        raise KindUnknown(f"nothing was ever called {rule.kind!r}; there are: {named}")
    if rule.same_as is not None and folded(rule.same_as) == folded(rule.kind):
        raise KindUncertain(f"{rule.same_as!r} is the same name as {rule.kind!r} already")
    count = learned.counts.get(rule.kind, KindCount(0, 0))
    if rule.rule != "none" and not count.is_certain:
        raise KindUncertain(
            f"{rule.kind!r} has {count.examples} examples of {count.parts} parts; before parts "
            f"pass by their kind, it takes {LEAST_EXAMPLES} of {LEAST_PARTS}"
        )
