"""Stated against realised false alarms, over random splits by group: `python -m bench.alarms DATA MODEL`.

The normal images that the model was not trained on (validation and test) are split again and again
into groups to calibrate on and groups to count false alarms among. What the calibration states is
held to what happens: the mean over splits, and how often the count lies in the interval that the
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
from anomaly.calibration import Calibration, NormalSet, calibrate
from bench.sessions import with_tiles
from training.calibrate import measure
from training.data import open_dataset

RATES = (0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Count:
    """One split at one rate: stated, what was expected and what came."""

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
    held = [s for s in with_tiles(open_dataset(options.data)).samples if s.split != "train"]
    normals = measure(model, [s for s in held if s.is_normal], skip_unreadable=False, quiet=False)
    counts = split_and_count(normals, options.splits, options.share)
    print(f"{len(set(normals.groups))} groups, {len(normals.groups)} normal images")
    print(table(counts))


def split_and_count(normals: NormalSet, splits: int, share: float) -> list[Count]:
    """Calibrate on a share of the groups and count among the others, so many times."""
    names = np.unique(normals.groups)
    generator, found = np.random.default_rng(0), []
    for _ in tqdm(range(splits), desc="splits"):
        order = generator.permutation(len(names))
        chosen = set(names[order[: round(share * len(names))]].tolist())
        known = np.array([group in chosen for group in normals.groups])
        calibration = calibrate(subset(normals, known))
        found += count(normals, calibration, ~known)
    return found


def subset(normals: NormalSet, rows: np.ndarray) -> NormalSet:
    """Return the images in some rows, with their copies."""
    assert normals.corrupted is not None
    place = np.cumsum(rows) - 1
    copies = rows[list(normals.origin)]
    return NormalSet(
        normals.evidence[torch.from_numpy(rows)],
        tuple(g for g, wanted in zip(normals.groups, rows, strict=True) if wanted),
        normals.grid,
        normals.corrupted[torch.from_numpy(copies)],
        tuple(int(place[o]) for o in normals.origin if rows[o]),
    )


def count(normals: NormalSet, calibration: Calibration, rows: np.ndarray) -> list[Count]:
    """Count rejected groups: a group of which a share was rejected counts by that share."""
    held_out = normals.evidence[torch.from_numpy(rows)]
    scores = calibration.image_scores(held_out, normals.grid).numpy()
    groups = [g for g, wanted in zip(normals.groups, rows, strict=True) if wanted]
    _, member = np.unique(groups, return_inverse=True)
    size = np.bincount(member)
    found = []
    for rate in RATES:
        rejected = scores > calibration.images.threshold(rate)
        total = round(float((np.bincount(member, weights=rejected) / size).sum()))
        expected = calibration.images.expected(rate, len(size))
        certified = calibration.images.smallest_rate <= rate
        found.append(Count(rate, certified, len(size), total, expected.low, expected.high))
    return found


def table(counts: Sequence[Count]) -> str:
    """Lay out one line for each rate."""
    lines = [
        "| stated | certified in | realised, mean over splits | count within the interval |",
        "|---|---|---|---|",
    ]
    for rate in RATES:
        own = [one for one in counts if one.rate == rate]
        certified = np.mean([one.certified for one in own])
        realised = np.mean([one.rejected / one.groups for one in own])
        inside = np.mean([one.low <= one.rejected <= one.high for one in own])
        lines.append(f"| {rate:.0%} | {certified:.0%} | {realised:.2%} | {inside:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
