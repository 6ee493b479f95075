"""Stated against realised false alarms over random splits: `python -m bench.alarms DATA MODEL`.

The normal images that the model was not trained on (validation and test) are split again and again
into groups to calibrate on and groups to count false alarms among. The stated rate is compared with
the realised one: the mean over splits, and how often the count lies in the interval that the
command prints.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from anomaly.bundle import load_bundle
from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration
from anomaly.normal_set import NormalSet
from bench.sessions import independent
from training.calibrate import measure
from training.data import open_dataset
from training.progress import SHOWN

RATES = (0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Count:
    """One split at one rate: the stated rate, the expected and the counted alarms."""

    rate: float
    certified: bool
    groups: int
    rejected: int
    low: int
    high: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--share", type=float, default=0.6, help="of the groups, to calibrate on")
    options = parser.parse_args()
    model = load_bundle(options.model, check_golden=False).model.eval()
    held = [s for s in independent(open_dataset(options.data)).samples if s.split != "train"]
    normals = measure(model, [s for s in held if s.is_normal], progress=SHOWN)
    counts = split_and_count(normals, options.splits, options.share)
    print(f"{len(set(normals.groups))} groups, {len(normals.groups)} normal images")
    print(table(counts))


def split_and_count(normals: NormalSet, splits: int, share: float) -> list[Count]:
    """Calibrate on a share of the groups and count among the others, so many times."""
    names = np.unique(normals.groups)
    generator, counted = np.random.default_rng(0), []
    for _ in tqdm(range(splits), desc="splits"):
        order = generator.permutation(len(names))
        drawn_names = set(names[order[: round(share * len(names))]].tolist())
        is_drawn = np.array([group in drawn_names for group in normals.groups])
        calibration = calibrate(subset(normals, is_drawn))
        counted += count(normals, calibration, ~is_drawn)
    return counted


def subset(normals: NormalSet, rows: np.ndarray) -> NormalSet:
    """Return the images in some rows, with their copies."""
    assert normals.corrupted is not None
    place = np.cumsum(rows) - 1
    copies = rows[list(normals.origin)]
    return NormalSet(
        normals.evidence[torch.from_numpy(rows)],
        tuple(g for g, is_member in zip(normals.groups, rows, strict=True) if is_member),
        normals.grid,
        normals.corrupted[torch.from_numpy(copies)],
        tuple(int(place[o]) for o in normals.origin if rows[o]),
    )


def count(normals: NormalSet, calibration: Calibration, rows: np.ndarray) -> list[Count]:
    """Count rejected groups: a group of which a share was rejected counts by that share."""
    held_out = normals.evidence[torch.from_numpy(rows)]
    scores = calibration.image_scores(held_out, normals.grid).numpy()
    groups = [g for g, is_counted in zip(normals.groups, rows, strict=True) if is_counted]
    _, member = np.unique(groups, return_inverse=True)
    size = np.bincount(member)
    counted = []
    for rate in RATES:
        rejected = scores > calibration.images.threshold(rate)
        total = round(float((np.bincount(member, weights=rejected) / size).sum()))
        expected = calibration.images.expected(rate, len(size))
        certified = calibration.images.smallest_rate <= rate
        counted.append(Count(rate, certified, len(size), total, expected.low, expected.high))
    return counted


def table(counts: Sequence[Count]) -> str:
    """Lay out one line for each rate."""
    lines = [
        "| stated | certified in | realised, mean over splits | count within the interval |",
        "|---|---|---|---|",
    ]
    for rate in RATES:
        at_rate = [count_ for count_ in counts if count_.rate == rate]
        certified = np.mean([count_.certified for count_ in at_rate])
        realised = np.mean([count_.rejected / count_.groups for count_ in at_rate])
        inside = np.mean([count_.low <= count_.rejected <= count_.high for count_ in at_rate])
        lines.append(f"| {rate:.0%} | {certified:.0%} | {realised:.2%} | {inside:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
