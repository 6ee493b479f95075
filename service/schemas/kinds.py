"""What a model calls defects, on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.kinds.learned import LEAST_EXAMPLES, LEAST_PARTS
from service.wire import Label, Text

RuleName = Literal["none", "warn", "ignore"]


class KindOut(BaseModel):
    """One kind of defect."""

    kind: str
    examples: Annotated[int, Field(description="Labelled regions that it is named from.")]
    parts: Annotated[int, Field(description="Parts that they are of.")]
    rule: Annotated[RuleName, Field(description="What is done where nothing else was found.")]
    same_as: Annotated[str | None, Field(description="Its examples count as those of this name.")]


class SimilarOut(BaseModel):
    """Two names that may be one."""

    kind: str
    like: str
    ratio: Annotated[float, Field(description="Share of their signs that they have in common.")]


class KindsOut(BaseModel):
    """All kinds of one model, and what they are learned from."""

    model: str
    version: Annotated[str | None, Field(description="null before the first example.")]
    weights: Annotated[str, Field(description="Digest of the weights that describe regions.")]
    unknown_below: Annotated[
        float, Field(description="A region of which kind_p is lower is called `unknown`.")
    ]
    fitted_at: datetime | None
    kinds: list[KindOut]
    similar: list[SimilarOut]
    left_out: Annotated[int, Field(description="Labelled parts that teach nothing.")]
    left_out_because: list[str]


class KindRuleIn(BaseModel):
    """What is to be done with a kind."""

    model_config = ConfigDict(extra="forbid")

    rule: Annotated[
        RuleName,
        Field(
            description="ignore: parts on which nothing else was found are OK; warn: they are "
            f"WARN. Only with {LEAST_EXAMPLES} examples of {LEAST_PARTS} parts."
        ),
    ] = "none"
    same_as: Annotated[
        Label | None, Field(min_length=1, description="The name that it is a misspelling of.")
    ] = None
    reason: Annotated[Text | None, Field(description="For the audit trail.")] = None
