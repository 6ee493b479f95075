"""A memory bank on the same features: the baseline that Maskline's figures stand beside.

    python -m bench.knn ../data/magnetic_tile --seeds 0,1,2

PatchCore's scoring (Roth et al. 2022) without its reweighting: each patch's distance to the nearest of
20,000 patches of normal training images, drawn at random instead of by the greedy coreset; the image
score is the largest of the smoothed map. Features, size and resampling are the default recipe's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anomaly.calibration import Reduction
from anomaly.heatmap import canvas_map
from anomaly.image import decode_image
from anomaly.metrics import image_metrics, pixel_metrics
from anomaly.preprocess import preprocess
from anomaly.targets import Target, build_target
from anomaly.types import Grid, Placement
from bench.quality import seeds_of, table
from training.calibrate import batches
from training.config import TrainConfig, load_recipe
from training.data import Sample, open_dataset, read_mask
from training.evaluate import canvas_mask

_BANK = 20_000
_REDUCTION = Reduction(smoothing=0.8, top_share=0.0)


def main() -> None:
    """Run the baseline and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=seeds_of, default=[0])
    options = parser.parse_args()
    dataset, config = open_dataset(options.data), load_recipe("default")
    target = build_target(config.model.target, config.model.preprocess.canvas).eval()
    flat = _tokens(target, [s for s in dataset.select("train") if s.is_normal], config).flatten(
        0, 1
    )
    target.fit(flat.mean(dim=0), flat.std(dim=0))
    normal = target.standardise(flat)
    test = dataset.select("test")
    tokens = target.standardise(_tokens(target, test, config))
    rows = []
    for seed in options.seeds:
        generator = torch.Generator().manual_seed(seed)
        bank = normal[torch.randperm(len(normal), generator=generator)[:_BANK]]
        rows.append({"seed": seed, **figures(test, tokens, bank, target.grid)})
    print(f"\n{options.data.name}, nearest of {_BANK} patches, seeds {options.seeds}\n")
    print(table(rows))


def figures(
    samples: Sequence[Sample], tokens: torch.Tensor, bank: torch.Tensor, grid: Grid
) -> dict[str, float]:
    """Score (N, L, C) tokens of test images against a (K, C) bank."""
    distance = torch.stack([torch.cdist(one, bank).min(dim=1).values for one in tokens])  # (N, L)
    smoothed = _REDUCTION.smooth(distance, grid)
    labels = np.array([not sample.is_normal for sample in samples])
    found = image_metrics(labels, _REDUCTION.image_score(smoothed).numpy()).as_dict()
    side = grid.rows * grid.patch
    whole = Placement((side, side), (side, side), (0, 0, side, side))
    masks = [_mask(sample, whole) for sample in samples]
    if not any(mask.any() for mask in masks):
        return found
    maps = [canvas_map(one.numpy(), grid, whole.canvas) for one in smoothed]
    return found | pixel_metrics(masks, maps).as_dict()


def _mask(sample: Sample, whole: Placement) -> np.ndarray:
    """Ground truth stretched to the canvas."""
    if sample.mask is None:
        return np.zeros(whole.canvas, bool)
    return canvas_mask(read_mask(sample, decode_image(sample.path.read_bytes()).size), whole)


@torch.inference_mode()
def _tokens(target: Target, samples: Sequence[Sample], config: TrainConfig) -> torch.Tensor:
    """Raw tokens of the images, (N, L, C)."""
    parts = []
    for batch in batches(samples):
        pixels, _ = preprocess([image for _, image in batch], config.model.preprocess)
        parts.append(target.raw(pixels))
    return torch.cat(parts)


if __name__ == "__main__":
    main()
