"""What is learned of one model's kinds at one moment, and what that says of a part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from anomaly.heatmap import MOST_REGIONS
from anomaly.kinds import UNKNOWN, KindHead
from anomaly.types import Detection, FloatArray, Region, Verdict
from record.labelled import KindRule, Rule

# A rule lets parts pass: before that its kind must be known well enough to tell it from others.
LEAST_EXAMPLES, LEAST_PARTS = 20, 10


@dataclass(frozen=True, slots=True)
class KindCount:
    """How many regions, of how many parts, are an example of a kind."""

    examples: int
    parts: int

    @property
    def is_certain(self) -> bool:
        """Whether a rule may rest on it."""
        return self.examples >= LEAST_EXAMPLES and self.parts >= LEAST_PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A head for the regions of models with these `weights`; None before the first example.

    `names` are all that people wrote, with the name under which each counts; `left_out` says of how
    many labelled parts nothing could be learned, by reason.
    """

    weights: str
    head: KindHead | None = None
    rules: Mapping[str, KindRule] = field(default_factory=dict)
    counts: Mapping[str, KindCount] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    fitted_at: datetime | None = None

    @property
    def is_learned(self) -> bool:
        """Whether anybody looked for examples yet."""
        return self.fitted_at is not None

    @property
    def version(self) -> str | None:
        """Twelve hexadecimal digits that follow from the examples."""
        return None if self.head is None else self.head.digest[:12]

    def judged(self, detection: Detection, vectors: FloatArray) -> Detection:
        """Name regions by their descriptions (n, D), and let pass what a line's rules excuse."""
        if self.head is None or not len(vectors):
            return detection
        regions = self.head.named(detection.regions, vectors)
        verdict = self._excuse(detection.verdict, regions)
        if verdict is None:
            return replace(detection, regions=regions)
        return replace(detection, regions=regions, excused=verdict, is_anomalous=False)

    def _excuse(self, verdict: Verdict, regions: Sequence[Region]) -> Verdict | None:
        """Return the verdict of a rejected part that is excused; None where nothing excuses it.

        Every region must be of a kind with a rule that is still certain: what is unknown, or of
        another kind, is never excused, nor is a part with more regions than are named.
        """
        rules = {self._rule_of(region.kind) for region in regions}
        if verdict != "NG" or "none" in rules or len(regions) >= MOST_REGIONS:
            return None
        return "WARN" if "warn" in rules else "OK"

    def _rule_of(self, kind: str | None) -> Rule:
        rule, count = self.rules.get(kind or UNKNOWN), self.counts.get(kind or UNKNOWN)
        if rule is None or count is None or not count.is_certain:
            return "none"
        return rule.rule
