"""What masks, a second look and several models change, on trained models of one set.

    python -m bench.ablation DATA MODEL [MODEL …]

Nothing is trained: the first model's tokens are computed once, then predicted under other masks.
Each row is calibrated anew on the validation normals and judged on synthetic defects (what a choice
may follow) and on the test split (what it may not). Further models of the same set are averaged
with the first: seeds, canvases, a model of pixels.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomaly.bundle import load_bundle
from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration
from anomaly.corruption import corrupt
from anomaly.image_score import Reduction
from anomaly.masking import MaskingConfig
from anomaly.model import AnomalyModel
from anomaly.normal_set import NormalSet
from anomaly.preprocess import content_seed, preprocess
from anomaly.scoring import Evidence, reconstruct
from anomaly.types import Grid, Placement, RgbImage
from training.data import Sample, open_dataset, read_mask
from training.decoding import STRICT
from training.evaluate import canvas_mask
from training.truth import mask_files

_DOUBTFUL = 8  # one patch in this many is looked at again
_BATCH = 8
MASKINGS = {
    "default: halves, twice": MaskingConfig(2, 2),
    "halves, once": MaskingConfig(2, 1),
    "halves, four times": MaskingConfig(2, 4),
    "thirds hidden in turn, once": MaskingConfig(3, 1),
    "quarters hidden in turn, once": MaskingConfig(4, 1),
    "eighths hidden in turn, once": MaskingConfig(8, 1),
    "thirds seen in turn, once": MaskingConfig(3, 1, "part"),
    "quarters seen in turn, once": MaskingConfig(4, 1, "part"),
}
Predict = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Split:
    """Tokens (N, L, C) float16 and mask seeds of some images."""

    tokens: torch.Tensor
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """The data that every row is measured on."""

    normal: Split
    copies: Split
    test: Split
    origin: tuple[int, ...]
    groups: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def anomalous(self) -> np.ndarray:
        """Whether each test image has a defect."""
        return np.array([not sample.is_normal for sample in self.samples])


@torch.inference_mode()
def main() -> None:
    """Print the table of a set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="rows whose names have one of these, by commas")
    options = parser.parse_args()
    first, *more_models = [
        load_bundle(path, check_golden=False).model.eval() for path in options.models
    ]
    material = gather(first, options.data)
    print(
        "| what | masked alone: synthetic | test | all: synthetic | test | pixel AUROC | s |\n"
        "|---|---|---|---|---|---|---|"
    )
    selected = options.only.split(",")
    for name, predict in predictors(first).items():
        if not any(part in name for part in selected):
            continue
        started = time.monotonic()
        scored = score(first, material, predict)
        print(_row(name, scored, material, time.monotonic() - started), flush=True)
    if more_models:
        print("\n| models averaged | image AUROC alone | of the averaged maps |\n|---|---|---|")
        _average([first, *more_models], options, material)


def gather(model: AnomalyModel, data: Path) -> Material:
    """Compute tokens of validation normals, two corrupted copies of each, and the test split."""
    dataset, generator = open_dataset(data), np.random.default_rng(0)
    held_out = [s for s in dataset.select("validation") if s.is_normal]
    normals: list[RgbImage] = []
    copies: list[RgbImage] = []
    for batch in STRICT.on(model.config.preprocess.canvas).batches(held_out):
        images = [image for _, image in batch]
        normals += images
        of = [i for i in range(len(images)) for _ in range(2)]
        copies += [corrupt(images[i], images[i - 1], generator)[0] for i in of]
    test = dataset.select("test")
    images_shown = [
        i for b in STRICT.on(model.config.preprocess.canvas).batches(test) for _, i in b
    ]
    return Material(
        _split(model, normals),
        _split(model, copies),
        _split(model, images_shown),
        tuple(i for i in range(len(normals)) for _ in range(2)),
        tuple(sample.session for sample in held_out),
        tuple(test),
    )


def _split(model: AnomalyModel, images: Sequence[RgbImage]) -> Split:
    tokens, seeds = [], []
    for start in range(0, len(images), _BATCH):
        pixels, _ = preprocess(images[start : start + _BATCH], model.config.preprocess)
        tokens.append(model.target(pixels).half())
        seeds += [content_seed(canvas) for canvas in pixels]
    return Split(torch.cat(tokens), tuple(seeds))


def predictors(model: AnomalyModel) -> dict[str, Predict]:
    """Every way to predict that is tried."""

    def under(masking: MaskingConfig) -> Predict:
        return lambda tokens, seeds: model.predict(tokens, seeds, masking)

    def beside(tokens: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        predicted = model.predict(tokens, seeds)
        return torch.cat([predicted, _second_look(model, tokens, predicted, seeds)], dim=1)

    def alone(tokens: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        return _second_look(model, tokens, model.predict(tokens, seeds), seeds)

    plain = {name: under(masking) for name, masking in MASKINGS.items()}
    looks = {"a second look, alone": alone, "a second look, beside the default": beside}
    return plain | looks


def _second_look(
    model: AnomalyModel, tokens: torch.Tensor, first_look: torch.Tensor, seeds: Sequence[int]
) -> torch.Tensor:
    """Predict an eighth at a time, the most doubtful eighth of each window together first."""
    apart = 1 - F.cosine_similarity(first_look.mean(dim=1), tokens, dim=-1)  # (B, L)
    length = model.window.length
    masks = torch.stack(
        [
            torch.stack(
                [
                    doubtful_first(image_tokens[place], length, seed)
                    for place in model.window_indices
                ]
            )
            for image_tokens, seed in zip(apart, seeds, strict=True)
        ]
    )  # (B, W, 1, G, l)
    rows = model.config.scoring.max_rows
    return reconstruct(model.mae, tokens, masks, model.window_indices, max_rows=rows)


def doubtful_first(doubt: torch.Tensor, length: int, seed: int) -> torch.Tensor:
    """Return (1, G, l) masks: the first hides patches of most doubt (l,), the others the rest."""
    generator = torch.Generator().manual_seed(seed)
    size = -(-length // _DOUBTFUL)
    worst = doubt.topk(size).indices.cpu()
    is_left = torch.ones(length, dtype=torch.bool)
    is_left[worst] = False
    remaining = is_left.nonzero().flatten()
    order = torch.cat([worst, remaining[torch.randperm(len(remaining), generator=generator)]])
    members = order[torch.arange(_DOUBTFUL * size) % length].view(_DOUBTFUL, size)
    masks = torch.zeros(1, _DOUBTFUL, length, dtype=torch.bool)
    masks[0].scatter_(1, members, value=True)
    return masks


@dataclass(frozen=True, slots=True)
class Scored:
    """Calibration and test evidence under one way to predict."""

    normals: NormalSet
    test: Evidence
    calibration: Calibration

    def only(self, family: str) -> "Scored":
        """Return the same with one family of evidence."""
        normals = self.normals
        assert normals.corrupted is not None
        reduced = replace(
            normals,
            evidence=_only(normals.evidence, family),
            corrupted=_only(normals.corrupted, family),
        )
        return Scored(reduced, _only(self.test, family), calibrate(reduced))

    @property
    def synthetic(self) -> float:
        """AUROC of the chosen way to score on corrupted copies."""
        return self.calibration.synthetic_auroc or 0.0

    @property
    def maps(self) -> torch.Tensor:
        """Scores of the test images, (N, L), not smoothed."""
        return self.calibration.patch_scores(self.test).mean(dim=1)

    @property
    def images(self) -> np.ndarray:
        """Image scores of the test images."""
        return self.calibration.reduction(self.maps, self.normals.grid).numpy()


def score(model: AnomalyModel, material: Material, predict: Predict) -> Scored:
    """Gather evidence, calibrate, and gather the test's."""

    def evidence(split: Split) -> Evidence:
        rows = []
        for start in range(0, len(split.seeds), _BATCH):
            tokens = split.tokens[start : start + _BATCH].float()
            guess = predict(tokens, split.seeds[start : start + _BATCH])
            rows.append(model.evidence(tokens, guess).averaged())
        return Evidence.concatenate(rows)

    grid = model.target.map_grid
    normals = NormalSet(
        evidence(material.normal),
        material.groups,
        grid,
        evidence(material.copies),
        material.origin,
    )
    return Scored(normals, evidence(material.test), calibrate(normals))


def _only(errors: Evidence, family: str) -> Evidence:
    rows = [i for i, name in enumerate(errors.names) if name.startswith(family + ".")]
    return Evidence(errors.values[:, :, rows], tuple(errors.names[i] for i in rows))


def _row(name: str, scored: Scored, material: Material, seconds: float) -> str:
    label = material.anomalous
    masked = scored.only("masked") if "masked" in " ".join(scored.test.names) else scored
    cells = [
        f"{masked.synthetic:.3f}",
        f"{roc_auc_score(label, masked.images):.3f}",
        f"{scored.synthetic:.3f}",
        f"{roc_auc_score(label, scored.images):.3f}",
        _pixels(scored, material),
        f"{seconds:.0f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _pixels(scored: Scored, material: Material) -> str:
    """Pixel AUROC on the map's own grid, where there are masks."""
    grid = scored.normals.grid
    if not any(sample.mask for sample in material.samples):
        return "-"
    maps = Reduction(0.5).smooth(scored.maps, grid)
    masks = np.stack([_mask(sample, grid) for sample in material.samples])
    return f"{roc_auc_score(masks.ravel(), maps.numpy().ravel()):.3f}"


def _mask(sample: Sample, grid: Grid) -> np.ndarray:
    """Ground truth on the map's grid."""
    if sample.mask is None:
        return np.zeros((grid.rows, grid.cols), bool)
    with Image.open(mask_files(sample)[0]) as mask:
        size = (mask.height, mask.width)
    side = (grid.rows, grid.cols)
    return canvas_mask(read_mask(sample, size), Placement(size, side, (0, 0, *side)))


def _average(
    models: Sequence[AnomalyModel], options: argparse.Namespace, material: Material
) -> None:
    """Average the calibrated maps of several models, one more at a time."""
    label, grid = material.anomalous, models[0].target.map_grid
    total = torch.zeros(len(label), grid.rows, grid.cols)
    for number, (model, path) in enumerate(zip(models, options.models, strict=True), start=1):
        model_material = gather(model, options.data) if number > 1 else material
        scored = score(model, model_material, model.predict)
        rows = scored.normals.grid.rows
        spread = scored.calibration.patch_scores(scored.normals.evidence).std()
        maps = (scored.maps / spread).view(len(label), 1, rows, -1)
        total += F.interpolate(maps, (grid.rows, grid.cols), mode="area")[:, 0]
        together = scored.calibration.reduction(total.flatten(1) / number, grid).numpy()
        alone = roc_auc_score(label, scored.images)
        print(f"| + {path} | {alone:.3f} | {roc_auc_score(label, together):.3f} |", flush=True)


if __name__ == "__main__":
    main()
