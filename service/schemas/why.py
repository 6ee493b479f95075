"""Why a part was rejected, on the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Kind = Literal["prediction", "memory", "repair", "labels"]


class TypicalOut(BaseModel):
    """How normal parts score."""

    count: Annotated[int, Field(description="Of so many parts, or groups of them.")]
    median: float
    p95: Annotated[float, Field(description="What 95 % of them do not exceed.")]


class EvidenceOut(BaseModel):
    """What one kind of evidence said."""

    kind: Kind
    score: Annotated[
        float, Field(description="The part's score if this kind alone had all the weight.")
    ]
    weight: Annotated[float, Field(description="Its share of the calibration's weight.")]
    contribution: Annotated[
        float, Field(description="Its part of the score; those of all kinds add up to it.")
    ]
    share: Annotated[
        float,
        Field(description="Its part of what stood out at the deciding cells; they add up to 1."),
    ]
    normals: Annotated[
        TypicalOut | None,
        Field(description="Of the newest kept normal parts; null where there are fewer than 5."),
    ]


class RankOut(BaseModel):
    """How rare such a score is among the parts of the calibration."""

    value: Annotated[float, Field(description="The p-value that was answered.")]
    groups: Annotated[int, Field(description="Good parts of the calibration; a lot counts once.")]
    as_high: Annotated[
        float, Field(description="How many of them look like this or more so; a lot in parts.")
    ]


class CellOut(BaseModel):
    """One of the cells whose mean is the score, in the pixels of the image as sent."""

    box: Annotated[tuple[int, int, int, int], Field(description="x, y, width, height")]
    score: float
    kind: Annotated[Kind, Field(description="The kind of evidence that says most there.")]


class NearOut(BaseModel):
    """A normal part, and how far it lies in the units of the model's features."""

    result_id: str
    distance: float


class ExpectedOut(BaseModel):
    """What the picture of what was expected is made of."""

    parts: Annotated[
        list[NearOut], Field(description="Whose pixels were put in; each one's furthest piece.")
    ]
    distance: Annotated[float, Field(description="Between what was predicted and what was put in.")]
    usual_distance: Annotated[
        float | None, Field(description="The same among normal parts; null of a lone one.")
    ]
    is_good_match: Annotated[
        bool | None, Field(description="Whether a normal part has about what was predicted.")
    ]
    share: Annotated[float, Field(description="Of the picture, that was replaced.")]


class WhyOut(BaseModel):
    """Why a stored part has its score; all scores are on the calibration's scale."""

    result_id: str
    model: str
    version: Annotated[str, Field(description="The version whose calibration explains.")]
    same_calibration: Annotated[
        bool, Field(description="Whether it is the calibration that judged the part.")
    ]
    score: Annotated[float, Field(description="By that calibration, from what is kept.")]
    threshold: float
    evidence: Annotated[list[EvidenceOut], Field(description="The largest share first.")]
    normals: Annotated[TypicalOut, Field(description="Scores of the calibration's good parts.")]
    p_value: RankOut
    cells: Annotated[list[CellOut], Field(description="The strongest first, at most 10.")]
    neighbours: Annotated[list[NearOut], Field(description="The nearest first, at most 5.")]
    expected: ExpectedOut | None
    problem: Annotated[
        Literal["no_normals_kept", "nothing_kept"] | None,
        Field(description="Why there are no neighbours and nothing is expected."),
    ]
