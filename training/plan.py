"""Decides the canvas from the training images, before training.

Small defects vanish when an image is shrunk, but a larger canvas costs time at every inspection.
Each candidate is tried without training anything: the distance of features to those of other normal
images must tell corrupted copies from normal ones. No real defect is looked at.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from anomaly.corruption import corrupt
from anomaly.memory_bank import Memory
from anomaly.preprocess import preprocess
from anomaly.targets import Target, build_target
from anomaly.types import RgbImage
from training.config import TrainConfig
from training.coreset import select
from training.data import Sample
from training.decoding import STRICT
from training.progress import SHOWN, Progress

_log = logging.getLogger(__name__)
_NATIVE = 1.15  # a canvas may exceed the images' shorter side by this much
_TOP_SHARE = 0.002
_BANK = 2000
_CANDIDATES = 20_000


def plan(
    samples: Sequence[Sample], config: TrainConfig, *, progress: Progress = SHOWN
) -> TrainConfig:
    """Return the recipe with its canvas decided."""
    if not config.plan.canvases or config.model.target.kind != "features":
        return config
    order = np.random.default_rng((config.run.seed, 7)).permutation(len(samples))
    plan_samples = [samples[i] for i in order[: config.plan.images]]
    images = [image for _, image in STRICT.images(plan_samples)]
    native = float(np.median([min(image.size) for image in images]))
    first, *larger = sorted(config.plan.canvases)
    fitting = [first, *(canvas for canvas in larger if canvas <= _NATIVE * native)]
    if len(fitting) == 1 or len(images) < 8:
        return with_canvas(config, first)
    aurocs = {
        canvas: separation(images, with_canvas(config, canvas))
        for canvas in progress.each(fitting, "canvas", total=len(fitting), unit="canvas")
    }
    canvas_chosen = first
    for canvas in fitting[1:]:
        if aurocs[canvas] > aurocs[canvas_chosen] + config.plan.gain:
            canvas_chosen = canvas
    aurocs_text = ", ".join(f"{canvas} px {auroc:.3f}" for canvas, auroc in aurocs.items())
    _log.info("canvas %d px (synthetic AUROC: %s)", canvas_chosen, aurocs_text)
    return with_canvas(config, canvas_chosen)


@torch.inference_mode()
def separation(images: Sequence[RgbImage], config: TrainConfig) -> float:
    """How well the best block of features tells corrupted copies from normal images, an AUROC.

    The first half of the images is the memory, the second half is told apart from its copies.
    """
    generator = np.random.default_rng(config.run.seed)
    half = len(images) // 2
    remembered, held = list(images[:half]), list(images[half:])
    copies = [corrupt(image, remembered[0], generator)[0] for image in held for _ in range(2)]
    target = build_target(config.model.target, config.model.preprocess.canvas).eval()
    normal = _tokens(target, remembered, config)
    flat = normal.flatten(0, 1)
    target.fit(flat.mean(dim=0), flat.std(dim=0))
    memory = Memory(target.blocks, _BANK)
    memory.fit(_banks(target, normal))
    tried = target.standardise(_tokens(target, [*held, *copies], config))
    label = np.arange(len(tried)) >= len(held)
    count = max(1, round(_TOP_SHARE * target.map_grid.length))
    distance = torch.cat(
        [target.on_map(memory(target.cells(score_map[None]))) for score_map in tried]
    )
    scores = distance.topk(count, dim=2).values.mean(dim=2)  # (N, blocks)
    return max(float(roc_auc_score(label, score_map)) for score_map in scores.T.numpy())


def _tokens(target: Target, images: Sequence[RgbImage], config: TrainConfig) -> torch.Tensor:
    """Raw tokens (N, L, C), a few images at a time."""
    parts = []
    for start in range(0, len(images), 4):
        pixels, _ = preprocess(images[start : start + 4], config.model.preprocess)
        parts.append(target.raw(pixels))
    return torch.cat(parts)


def _banks(target: Target, raw: torch.Tensor) -> list[torch.Tensor]:
    """A coreset of each block's cells, (K, channels)."""
    generator = torch.Generator().manual_seed(0)
    banks = []
    for cells in target.cells(target.standardise(raw)):
        flat = cells.flatten(0, 1)
        candidates = flat[torch.randperm(len(flat), generator=generator)[:_CANDIDATES]]
        banks.append(candidates[select(candidates, _BANK, generator)])
    return banks


def with_canvas(config: TrainConfig, canvas: int) -> TrainConfig:
    """Return the recipe with another canvas."""
    preprocess = replace(config.model.preprocess, canvas=canvas)
    return replace(config, model=replace(config.model, preprocess=preprocess))
