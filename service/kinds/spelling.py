"""Names of kinds as people write them: one name for those that differ in case or spaces only.

Names that are nearly alike are told, never joined: a dent is no vent.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_ALIKE = 0.8  # share of signs that two names have in common, in order


@dataclass(frozen=True, slots=True)
class Near:
    """A name that may be another one misspelt; `ratio` is how much they have in common."""

    kind: str
    like: str
    ratio: float


def folded(name: str) -> str:
    """Return what two spellings of one name share: no case, single spaces, no signs between."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def spellings(names: Iterable[str], same_as: Mapping[str, str]) -> dict[str, str]:
    """Say for each name under which it counts: its commonest spelling, or what it is the same as.

    `same_as` leads from a name to another, in any spelling; circles end where they began.
    """
    counted = Counter(names)
    commonest: dict[str, str] = {}
    for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        commonest.setdefault(folded(name), name)
    leads = {folded(name): folded(other) for name, other in same_as.items()}
    targets = {folded(other): other for other in same_as.values()}

    def end(key: str) -> str:
        passed: set[str] = set()
        while key in leads and key not in passed:
            passed.add(key)
            key = leads[key]
        return commonest.get(key) or targets.get(key, key)

    return {name: end(folded(name)) for name in counted}


def near(name: str, names: Sequence[str]) -> list[Near]:
    """Return names among others that this one may be a misspelling of, the likeliest first."""
    matches = [
        Near(name, other, difflib.SequenceMatcher(None, folded(name), folded(other)).ratio())
        for other in names
        if other != name
    ]
    return sorted((m for m in matches if m.ratio >= _ALIKE), key=lambda m: (-m.ratio, m.like))
