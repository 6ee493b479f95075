"""What models of labels answer on the wire."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from service.schemas.scoring import ScoreQuery
from supervised.bundle import SupervisedBundle
from supervised.masks import kind_masks
from supervised.types import Answer, TaskName


class KindOut(BaseModel):
    """How likely the image is of a kind."""

    kind: str
    probability: float


class BoxOut(BaseModel):
    """One object, in the pixels of the image as sent (after EXIF orientation)."""

    bbox: Annotated[tuple[int, int, int, int], Field(description="x, y, width, height")]
    kind: str
    probability: float


class MaskOut(BaseModel):
    """Where one kind is, in the pixels of the image as sent (after EXIF orientation)."""

    kind: str
    area_px: int
    size: Annotated[tuple[int, int], Field(description="height, width")]
    counts: Annotated[
        list[int],
        Field(description="COCO's uncompressed RLE: lengths down the columns, off first."),
    ]


class LabelModelOut(BaseModel):
    """A loaded model of labels."""

    name: str
    version: str
    digest: str
    task: TaskName
    classes: list[str]
    canvas: int

    @classmethod
    def of(cls, bundle: SupervisedBundle) -> "LabelModelOut":
        """Describe a model."""
        return cls(
            name=bundle.name,
            version=bundle.version,
            digest=bundle.digest,
            task=bundle.config.task,
            classes=list(bundle.config.classes),
            canvas=bundle.config.encoder.preprocess.canvas,
        )


class LabelModelRef(BaseModel):
    """Which model of labels gave an answer."""

    name: str
    version: str
    digest: str


class SupervisedOut(BaseModel):
    """The answer of a model of labels to one image; `task` says which fields are filled.

    It is no verdict, and it is not recorded.
    """

    task: TaskName
    classes: Annotated[list[KindOut], Field(description="All kinds, the likeliest first.")]
    boxes: list[BoxOut]
    masks: Annotated[list[MaskOut], Field(description="A mask for each kind that is there.")]
    model: LabelModelRef
    part_id: str | None
    camera: str | None
    lot: str | None
    timings: Annotated[dict[str, float], Field(description="Seconds in each stage.")]

    @classmethod
    def of(
        cls,
        answer: Answer,
        bundle: SupervisedBundle,
        query: ScoreQuery,
        timings: Mapping[str, float],
    ) -> "SupervisedOut":
        """Convert an answer; masks of large images take milliseconds."""
        masks = kind_masks(answer, bundle.config.classes)
        return cls(
            task=bundle.config.task,
            classes=[KindOut(kind=s.kind, probability=s.probability) for s in answer.classes],
            boxes=[
                BoxOut(bbox=box.bbox, kind=box.kind, probability=box.probability)
                for box in answer.boxes
            ],
            masks=[
                MaskOut(kind=mask.kind, area_px=mask.area_px, size=mask.size, counts=mask.counts)
                for mask in masks
            ],
            model=LabelModelRef(name=bundle.name, version=bundle.version, digest=bundle.digest),
            part_id=query.part_id,
            camera=query.camera,
            lot=query.lot,
            timings=dict(timings),
        )
