"""Kinds of defects from few examples, of regions that the detector itself found.

    python -m bench.kinds models/tiles ../data/magnetic_tile --draws 30

Every rejected test part that is labelled is inspected once; regions that touch its mask are its
examples. Then, for each number of examples a kind, parts are drawn whose sessions (tiles, strips)
teach, and all regions of other sessions are named: balanced accuracy by what was not predicted of a
region, by its plain tokens, and by a small network that is trained on cut-out regions from scratch.
Each kind in turn is left out, too: how many of its regions are then called unknown, and how many of
the others are. Nothing is chosen here.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from anomaly.bundle import load_bundle
from anomaly.detector import Detector
from anomaly.kinds import UNKNOWN, Examples, fit_kinds
from anomaly.preprocess import preprocess
from anomaly.runtime import detector_of
from anomaly.types import Region, RgbImage
from bench.sessions import independent
from training.data import open_dataset
from training.progress import SHOWN
from training.samples import Sample
from training.truth import read_mask

_CUT = 48  # side of a cut-out region, px
_AROUND = 1.5  # of a region's longer side
_STEPS = 150
_LEAST = 0.3  # of a kind's sessions stay for the test


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of labelled parts: described, plain and cut out, each with its kind and session."""

    described: np.ndarray
    plain: np.ndarray
    cuts: np.ndarray
    kinds: np.ndarray
    sessions: np.ndarray
    parts: np.ndarray


def main() -> None:
    """Print a line for each number of examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--examples", type=int, nargs="+", default=[1, 3, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--scratch-draws", type=int, default=5, help="of the trained network")
    options = parser.parse_args()
    samples = [s for s in independent(open_dataset(options.data)).samples if s.split == "test"]
    regions = inspected(options.model, [s for s in samples if not s.is_normal])
    for count in options.examples:
        row = {"examples": count} | accuracies(regions, count, options)
        print(json.dumps(row | unknowns(regions, count, max(1, options.draws // 3))), flush=True)


def inspected(model: Path, samples: Sequence[Sample]) -> Regions:
    """Inspect labelled parts, and take their regions that touch a mask."""
    detector = detector_of(load_bundle(model, check_golden=False))
    described, plain, cuts, kinds, sessions, parts = [], [], [], [], [], []
    without: dict[str, int] = {}
    with SHOWN.bar("regions", total=len(samples), unit="image") as bar:
        for sample in samples:
            image = detector.read(sample.path.read_bytes())
            detection = detector.detect([image])[0]
            vectors = detector.describe(detection)
            tokens = detector.describe(replace(detection, differences=_tokens(detector, image)))
            rows = [i for i, region in enumerate(detection.regions) if _hits(sample, image, region)]
            without[sample.label] = without.get(sample.label, 0) + (not rows)
            for row in rows:
                assert vectors is not None
                assert tokens is not None
                described.append(vectors[row])
                plain.append(tokens[row])
                cuts.append(_cut(image, detection.regions[row]))
                kinds.append(sample.label)
                sessions.append(sample.session or sample.name)
                parts.append(sample.name)
            bar.update()
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    print(json.dumps({"parts": len(samples), "regions": counts, "parts without": without}))
    return Regions(
        np.stack(described),
        np.stack(plain),
        np.stack(cuts),
        np.array(kinds),
        np.array(sessions),
        np.array(parts),
    )


@torch.inference_mode()
def _tokens(detector: Detector, image: RgbImage) -> torch.Tensor:
    pixels, _ = preprocess([image], detector.model.config.preprocess)
    tokens: torch.Tensor = detector.model.target(pixels)[0]
    return tokens


def _hits(sample: Sample, image: RgbImage, region: Region) -> bool:
    if sample.mask is None:
        return True
    x, y, width, height = region.bbox
    return bool(read_mask(sample, image.source_size)[y : y + height, x : x + width].any())


def _cut(image: RgbImage, region: Region) -> np.ndarray:
    """Cut a square around a region, (3, side, side) float32."""
    x, y, width, height = region.bbox
    half = max(8, round(_AROUND * max(width, height) / 2))
    row, column = y + height // 2, x + width // 2
    padded = cv2.copyMakeBorder(
        image.pixels, half, half, half, half, cv2.BORDER_REFLECT
    )  # as some lie at an edge
    square = padded[row : row + 2 * half, column : column + 2 * half]
    small = cv2.resize(square, (_CUT, _CUT), interpolation=cv2.INTER_AREA)
    return np.asarray(small.transpose(2, 0, 1) / 255, np.float32)


def drawn(regions: Regions, count: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows that teach, the strongest region of `count` parts a kind, and rows that test.

    Parts come from as many sessions as there are, and no session has both; some of a kind's stay
    for the test, so that a kind with few of them may have fewer examples.
    """
    generator = np.random.default_rng((draw, count))
    teach: list[int] = []
    taught: set[str] = set()
    for kind in sorted(set(regions.kinds)):
        rows = np.flatnonzero(regions.kinds == kind)
        order = generator.permutation(sorted(set(regions.sessions[rows])))
        usable = order[: max(1, round((1 - _LEAST) * len(order)))]
        by_session = [_firsts(regions, rows, session) for session in usable]
        in_turn = [
            (row, s)
            for turn in zip_longest(*by_session)
            for s, row in zip(usable, turn, strict=True)
        ]
        picked = [(row, session) for row, session in in_turn if row is not None][:count]
        teach += [row for row, _ in picked]
        taught |= {str(session) for _, session in picked}
    test = np.flatnonzero(~np.isin(regions.sessions, list(taught)))
    return np.array(teach), test


def _firsts(regions: Regions, rows: np.ndarray, session: str) -> list[int]:
    """Return the strongest region of each part of a session, among some rows."""
    of_session = rows[regions.sessions[rows] == session]
    _, first = np.unique(regions.parts[of_session], return_index=True)
    return [int(row) for row in of_session[np.sort(first)]]


def accuracies(regions: Regions, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Balanced accuracy of each way to name regions, averaged over draws, and its spread."""
    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "described": lambda teach, test: _named(regions.described, regions, teach, test),
        "plain": lambda teach, test: _named(regions.plain, regions, teach, test),
        "scratch": lambda teach, test: _trained(regions, teach, test),
    }
    figures: dict[str, float] = {}
    for name, way in ways.items():
        draws = options.scratch_draws if name == "scratch" else options.draws
        values = []
        for draw in range(draws):
            teach, test = drawn(regions, count, draw)
            values.append(_balanced(regions.kinds[test], way(teach, test)))
        if values:
            figures |= {name: round(float(np.mean(values)), 3)}
            figures |= {f"{name}_spread": round(float(np.std(values)), 3)}
    return figures


def _named(
    vectors: np.ndarray, regions: Regions, teach: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Name by the likeliest kind, whatever its p-value."""
    head = fit_kinds(_examples(vectors, regions, teach))
    return np.array(head.likeliest(vectors[test]))


def _examples(vectors: np.ndarray, regions: Regions, rows: np.ndarray) -> Examples:
    return Examples(
        vectors[rows],
        tuple(map(str, regions.kinds[rows])),
        tuple(map(str, regions.sessions[rows])),
    )


def unknowns(regions: Regions, count: int, draws: int) -> dict[str, float]:
    """Share of a left-out kind's regions called unknown, and of the others', averaged."""
    new, familiar = [], []
    for kind in sorted(set(regions.kinds)):
        for draw in range(draws):
            teach, test = drawn(regions, count, draw)
            teach = teach[regions.kinds[teach] != kind]
            head = fit_kinds(_examples(regions.described, regions, teach))
            names = np.array([naming.kind for naming in head.name(regions.described[test])])
            is_new = regions.kinds[test] == kind
            new.append(np.mean(names[is_new] == UNKNOWN))
            familiar.append(np.mean(names[~is_new] == UNKNOWN))
    return {
        "new_unknown": round(float(np.mean(new)), 3),
        "familiar_unknown": round(float(np.mean(familiar)), 3),
    }


def _balanced(true: np.ndarray, named: np.ndarray) -> float:
    """Mean over kinds of the share of its regions that have its name."""
    return float(np.mean([np.mean(named[true == kind] == kind) for kind in sorted(set(true))]))


def _trained(regions: Regions, teach: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Name by a small convolutional network trained on the examples' pictures alone."""
    torch.manual_seed(0)
    kinds = sorted(set(regions.kinds[teach]))
    labels = torch.tensor([kinds.index(kind) for kind in regions.kinds[teach]])
    pictures = torch.from_numpy(regions.cuts[teach])
    layers: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(kinds))
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(_STEPS):
        batch = torch.randint(len(labels), (32,))
        turned = torch.rot90(pictures[batch], int(torch.randint(4, ())), (2, 3))
        flipped = turned.flip(3) if torch.rand(()) < 0.5 else turned
        loss = nn.functional.cross_entropy(network(flipped), labels[batch])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    network.eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(regions.cuts[test]))
    return np.asarray(np.array(kinds)[logits.argmax(dim=1).numpy()])


if __name__ == "__main__":
    main()
