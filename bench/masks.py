"""What a handful of masks is worth: pixel AP, image AUROC and false alarms with 0, 1, 5 and 20.

    python -m bench.masks models/tile ../data/magnetic_tile --draws 10

Evidence and cells are gathered once from each image; then a head is fitted for each draw of masks,
and the model is calibrated anew with it on the set's validation normals. Of a kind at most half of
the parts are drawn; a part that was drawn (all its exposures, by `--group-by` or tile) is not
tested on, with masks or without. Pixel AP is of the coarse map, at half the canvas. Last, for each
kind, the masks of all *other* kinds teach: what a kind loses that nobody labelled.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly.bundle import Bundle, load_bundle
from anomaly.calibrate import calibrate, recalibrate, weigh
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.corruption import corrupt
from anomaly.explanation import weight_of
from anomaly.model import AnomalyModel
from anomaly.normal_set import NormalSet
from anomaly.preprocess import content_seed, preprocess
from anomaly.scoring import Evidence
from anomaly.types import Grid, RgbImage
from bench.sessions import independent
from training.data import open_dataset
from training.decoding import STRICT
from training.evidence import altered_cells, canvas_share
from training.groups import regrouped
from training.labelled import (
    FAMILY,
    REACHES,
    TEACHES,
    Cells,
    Rule,
    choose_penalty,
    draw_cells,
    fit_rule,
    seen_cells,
)
from training.progress import QUIET, SHOWN
from training.samples import Dataset, Sample
from training.truth import read_mask

_COPIES = 240
_TEACHERS = 100
_LEFT_OUT = 5  # masks of each other kind, where a kind is left out


@dataclass(frozen=True, slots=True)
class Looked:
    """What was gathered of N images: evidence (N, E, L), cells (N, L, D) float16 and truth.

    `share` (N, rows, cols) is how much of a cell is marked, `pixels` (N, S/2, S/2) bool what is.
    """

    evidence: torch.Tensor
    cells: torch.Tensor
    share: torch.Tensor
    pixels: torch.Tensor

    def logits(self, rule: Rule) -> torch.Tensor:
        """Logits of all cells by a rule, (N, L)."""
        chunks = torch.split(self.cells, 16)
        return torch.cat([rule(chunk.float()) for chunk in chunks])


@dataclass(frozen=True, slots=True)
class Bench:
    """A model's evidence on a set, and what every draw starts from."""

    names: tuple[str, ...]
    grid: Grid
    normals: NormalSet
    calibrators: Looked
    copies: Looked
    teachers: Cells
    test: Looked
    samples: tuple[Sample, ...]
    before: Calibration


def main() -> None:
    """Print a line for each draw, and a table of the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", default="1,5,20", help="masks of each kind, by comma")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--group-by", help="what one test part is, as of maskline train")
    options = parser.parse_args()
    bench = gathered(load_bundle(options.model, with_graph=False), options.data, options.group_by)
    rows = []
    for shots in (int(number) for number in options.shots.split(",")):
        penalty = None  # chosen on the first draw
        for draw in range(options.draws):
            row = judged(bench, drawn(bench.samples, shots, draw), penalty)
            penalty = row["penalty"]
            rows.append({"masks": shots, "draw": draw, **row})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    kinds = sorted({sample.label for sample in bench.samples if not sample.is_normal})
    for kind in kinds if len(kinds) > 1 else ():
        print(json.dumps(left_out(bench, kind)), flush=True)


def gathered(bundle: Bundle, data: Path, group_by: str | None) -> Bench:
    """Look at every image once."""
    model, dataset = bundle.model.eval(), independent(open_dataset(data, progress=QUIET))
    assert bundle.calibration is not None
    held, test = dataset.normal("validation"), tuple(_by_part(dataset, group_by))
    good = dataset.normal("train")
    order = np.random.default_rng(0).permutation(len(good))[:_TEACHERS]
    calibrators, copies = look(model, held), look(model, held, _COPIES)
    groups = tuple(sample.session for sample in held)
    normals = NormalSet(
        Evidence(calibrators.evidence.unsqueeze(1), model.names),
        groups,
        model.target.map_grid,
        Evidence(copies.evidence.unsqueeze(1), model.names),
        tuple(int(i) for i in _origins(len(held), _COPIES)),
        copies.share.flatten(1) >= 0.5,
    )
    seen_normals = look(model, [good[i] for i in sorted(order.tolist())])
    generator = np.random.default_rng(0)
    of_teachers = [
        draw_cells(cells.float(), share, REACHES if i % 2 else TEACHES, generator)
        for i, (cells, share) in enumerate(zip(seen_normals.cells, seen_normals.share, strict=True))
    ]
    settings = CalibrationSettings(bundle.calibration.false_alarm_rate)
    return Bench(
        names=model.names,
        grid=model.target.map_grid,
        normals=normals,
        calibrators=calibrators,
        copies=copies,
        teachers=Cells.joined(of_teachers),
        test=look(model, test),
        samples=test,
        before=calibrate(normals, settings),
    )


def _by_part(dataset: Dataset, group_by: str | None) -> list[Sample]:
    test = dataset.select("test")
    return test if group_by is None else regrouped(test, group_by)


def _origins(images: int, copies: int) -> np.ndarray:
    """Spread copies evenly over the images: of which image each is, ascending."""
    return np.arange(copies) * images // copies


@torch.inference_mode()
def look(model: AnomalyModel, samples: Sequence[Sample], copies: int = 0) -> Looked:
    """Gather what is needed of images, or of so many corrupted copies of them."""
    counts = np.bincount(_origins(len(samples), copies), minlength=len(samples))
    generator, parts, first = np.random.default_rng(0), [], 0
    config = model.config.preprocess
    with SHOWN.bar("looking", total=len(samples), unit="image") as bar:
        for batch in STRICT.on(config.canvas).batches(samples):
            images = [image for _, image in batch]
            masks = [read_mask(sample, image.source_size) for sample, image in batch]
            if copies:
                of = [i for i in range(len(batch)) for _ in range(counts[first + i])]
                pairs = [corrupt(images[i], images[i - 1], generator) for i in of]
                images, masks = [copy for copy, _ in pairs], [mask for _, mask in pairs]
            if images:
                parts.append(_looked(model, images, masks))
            first += len(batch)
            bar.update(len(batch))
    names = ("evidence", "cells", "share", "pixels")
    return Looked(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _looked(model: AnomalyModel, images: Sequence[RgbImage], masks: Sequence[np.ndarray]) -> Looked:
    config = model.config.preprocess
    pixels, _ = preprocess(images, config)
    tokens = model.target(pixels)
    predicted = model.predict(tokens, [content_seed(canvas) for canvas in pixels])
    shares = torch.stack([torch.from_numpy(canvas_share(mask, config)) for mask in masks])
    return Looked(
        model.evidence(tokens, predicted).mean,
        seen_cells(model, tokens, predicted.mean(dim=1)).half(),
        altered_cells(model, masks),
        F.avg_pool2d(shares.unsqueeze(1), 2)[:, 0] >= 0.5,
    )


def drawn(samples: Sequence[Sample], shots: int, draw: int) -> dict[str, list[int]]:
    """Draw the indices of so many labelled images of each kind, of half of its parts at most."""
    generator = np.random.default_rng((draw, shots))
    by_kind: dict[str, list[int]] = {}
    for kind in sorted({sample.label for sample in samples if not sample.is_normal}):
        of_kind = [i for i, sample in enumerate(samples) if sample.label == kind and sample.mask]
        parts = sorted({samples[i].session for i in of_kind})
        order = generator.permutation(len(parts))[: len(parts) // 2]
        in_turn = [i for p in order for i in of_kind if samples[i].session == parts[p]]
        by_kind[kind] = in_turn[:shots]
    return by_kind


def taught(bench: Bench, rows: Sequence[int], penalty: float | None) -> Rule:
    """Fit a rule on labelled images, and choose its penalty unless it is named."""
    generator = np.random.default_rng(0)
    parts = sorted({bench.samples[i].session for i in rows})
    cells = [
        draw_cells(
            bench.test.cells[i].float(),
            bench.test.share[i],
            parts.index(bench.samples[i].session),
            generator,
        )
        for i in rows
    ]
    joined = Cells.joined([*cells, bench.teachers])
    return fit_rule(joined, choose_penalty(joined) if penalty is None else penalty)


def with_labels(bench: Bench, rule: Rule) -> tuple[Calibration, torch.Tensor]:
    """Calibrate with a rule as one more family; returns that and evidence (N, E, L) on the test."""
    names = (*bench.names, f"{FAMILY}.cells")

    def joined(looked: Looked) -> torch.Tensor:
        return torch.cat([looked.evidence, looked.logits(rule).unsqueeze(1)], dim=1)

    normals = replace(
        bench.normals,
        evidence=Evidence(joined(bench.calibrators).unsqueeze(1), names),
        corrupted=Evidence(joined(bench.copies).unsqueeze(1), names),
    )
    # Normalisers, reduction and smoothing stay, so that what differs is what the labels say.
    before = replace(bench.before, weights=weigh(normals))
    settings = CalibrationSettings(before.false_alarm_rate)
    return recalibrate(before, normals, settings), joined(bench.test)


def judged(bench: Bench, by_kind: dict[str, list[int]], penalty: float | None) -> dict[str, Any]:
    """Figures without and with the labels, on test parts that were not drawn."""
    rows = [i for of_kind in by_kind.values() for i in of_kind]
    rule = taught(bench, rows, penalty)
    calibration, evidence = with_labels(bench, rule)
    parts = {bench.samples[i].session for i in rows}
    tested = [i for i, sample in enumerate(bench.samples) if sample.session not in parts]
    without = figures(bench, bench.before, bench.test.evidence, tested)
    names = (*bench.names, f"{FAMILY}.cells")
    return {
        "labelled": len(rows),
        "penalty": rule.penalty,
        "weight": weight_of(FAMILY, names, calibration.weights),
        **{f"{name}_without": value for name, value in without.items()},
        **figures(bench, calibration, evidence, tested),
    }


def figures(
    bench: Bench, calibration: Calibration, evidence: torch.Tensor, tested: Sequence[int]
) -> dict[str, Any]:
    """Pixel AP, image AUROC, and false alarms beside what was stated."""
    names = bench.names if evidence.shape[1] == len(bench.names) else (*bench.names, "labelled.x")
    index = torch.tensor(tested)
    scores = calibration.patch_scores(Evidence(evidence[index].unsqueeze(1), names))[:, 0]
    images = calibration.reduction(scores, bench.grid).numpy()
    bad = np.array([not bench.samples[i].is_normal for i in tested])
    maps = calibration.map_scores(scores, bench.grid).view(-1, 1, bench.grid.rows, bench.grid.cols)
    truth = bench.test.pixels[index]
    fine = F.interpolate(maps, truth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    rejected, count = images[~bad] > calibration.threshold, int((~bad).sum())
    expected = calibration.images.expected(calibration.false_alarm_rate, count)
    return {
        "pixel_AP": float(average_precision_score(truth.flatten().numpy(), fine.flatten().numpy())),
        "image_AUROC": float(roc_auc_score(bad, images)),
        "stated": calibration.false_alarm_rate,
        "realised": float(rejected.mean()),
        "within": bool(expected.low <= rejected.sum() <= expected.high),
        "recall": float((images[bad] > calibration.threshold).mean()),
    }


def left_out(bench: Bench, kind: str) -> dict[str, Any]:
    """Image AUROC of a kind, without labels and with those of all other kinds, three draws."""
    rows: list[tuple[float, float, float]] = []
    names = (*bench.names, f"{FAMILY}.cells")
    for draw in range(3):
        by_kind = drawn(bench.samples, _LEFT_OUT, draw)
        taught_by = [i for label, of_kind in by_kind.items() if label != kind for i in of_kind]
        if not taught_by:
            break
        calibration, evidence = with_labels(bench, taught(bench, taught_by, None))
        tested = [i for i, s in enumerate(bench.samples) if s.is_normal or s.label == kind]
        before = figures(bench, bench.before, bench.test.evidence, tested)["image_AUROC"]
        after = figures(bench, calibration, evidence, tested)["image_AUROC"]
        rows.append((before, after, weight_of(FAMILY, names, calibration.weights)))
    before, after, weight = np.mean(rows, axis=0).tolist()
    return {"left_out": kind, "without": before, "with": after, "weight": weight}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out the means over draws, a line for each number of masks."""
    lines = [
        "| masks a kind | images | pixel AP | lowest gain | image AUROC | weight | "
        "realised (stated) | within | recall |",
        "|---" * 9 + "|",
    ]
    for masks in dict.fromkeys(row["masks"] for row in rows):
        draws = [row for row in rows if row["masks"] == masks]

        def mean(key: str, draws: Sequence[dict[str, Any]] = draws) -> float:
            return float(np.mean([row[key] for row in draws]))

        gain = min(row["pixel_AP"] - row["pixel_AP_without"] for row in draws)
        lines.append(
            f"| {masks} | {mean('labelled'):.0f} | {mean('pixel_AP_without'):.3f} → "
            f"{mean('pixel_AP'):.3f} | {gain:+.3f} | {mean('image_AUROC_without'):.3f} → "
            f"{mean('image_AUROC'):.3f} | {mean('weight'):.2f} | {mean('realised_without'):.1%} → "
            f"{mean('realised'):.1%} ({mean('stated'):.1%}) | {mean('within'):.0%} | "
            f"{mean('recall_without'):.3f} → {mean('recall'):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
