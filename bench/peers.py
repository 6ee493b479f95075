"""Peers on the same images, canvas, backbone weights and splits.

PatchCore and PaDiM run through anomalib itself, and so do those of `bench.trained_peers`; nearest
neighbours run on our own tokens.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from anomaly.conformal import Conformal
from anomaly.heatmap import canvas_map, crop_to_image
from anomaly.image_score import Reduction
from anomaly.memory_bank import Memory
from anomaly.preprocess import preprocess
from anomaly.targets import build_target
from anomaly.types import Block, FloatArray, Placement
from bench.figures import Outcome
from bench.peer import (
    Fit,
    Peer,
    canvases,
    give_weights,
    layer,
    megabytes,
    normalised,
    of_anomalib,
)
from bench.trained_peers import efficientad, supersimplenet
from training.calibrate import with_groups
from training.config import TrainConfig
from training.data import Dataset, Sample
from training.decoding import STRICT

# As many patches as anomalib's greedy selection bears on two cores; our own memory keeps as many.
_CORESET_FROM, _CORESET = 100_000, 2_000


def outcome(
    fit: Fit, dataset: Dataset, config: TrainConfig, *, seed: int, group_by: str | None
) -> Outcome:
    """Fit a peer on the training split and score the others with it."""
    normal = [s for s in dataset.select("train") if s.is_normal]
    started = time.perf_counter()
    peer = fit(normal, config, seed)
    train_s = time.perf_counter() - started
    held_out = with_groups([s for s in dataset.select("validation") if s.is_normal], group_by)
    groups = [sample.session for sample in held_out]
    held_scores, held_maps, held_placements, _ = _run(peer, held_out, config)
    maxima = [
        crop_to_image(anomaly_map, placement).max()
        for anomaly_map, placement in zip(held_maps, held_placements, strict=True)
    ]
    scores, maps, placements, seconds = _run(peer, dataset.select("test"), config)
    costs = {
        "train_s": train_s,
        "ms_per_image": 1000 * seconds / len(scores),
        "model_mb": peer.megabytes,
    }
    return Outcome(
        normal=Conformal.fit(held_scores, groups),
        peaks=Conformal.fit(np.array(maxima), groups),
        scores=scores,
        maps=maps,
        placements=placements,
        costs=costs,
    )


def patchcore(stages: tuple[int, ...]) -> Fit:
    """PatchCore (Roth et al. 2022) of anomalib on the given backbone stages."""

    def fit(samples: Sequence[Sample], config: TrainConfig, seed: int) -> Peer:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - anomalib's projection draws from it
        layers = [layer(stage) for stage in stages]
        model = PatchcoreModel(layers, backbone=config.model.target.backbone, pre_trained=False)
        give_weights(model.feature_extractor, config)
        model.train()
        cells_drawn = []
        cells_each = max(1, _CORESET_FROM // len(samples))
        for pixels in canvases(samples, config):
            with torch.no_grad():  # or the core set's selection keeps every step in memory
                embedding = model(normalised(pixels)).view(
                    len(pixels), -1, sum(model.feature_extractor.out_dims)
                )
            drawn = torch.rand(embedding.shape[:2]).argsort(dim=1)[:, :cells_each]
            cells_drawn += [
                image_cells[index] for image_cells, index in zip(embedding, drawn, strict=True)
            ]
        candidates = torch.cat(cells_drawn)
        model.embedding_store = [candidates]
        model.subsample_embedding(min(1.0, _CORESET / len(candidates)))
        return of_anomalib(model.eval())

    return fit


def padim(samples: Sequence[Sample], config: TrainConfig, seed: int) -> Peer:
    """PaDiM (Defard et al. 2021) of anomalib: 100 of the channels of stages 1 to 3."""
    from anomalib.models.image.padim.torch_model import PadimModel

    torch.manual_seed(seed)
    layers = [layer(stage) for stage in (1, 2, 3)]
    model = PadimModel(config.model.target.backbone, layers, pre_trained=False, n_features=100)
    give_weights(model.feature_extractor, config)
    model.train()
    for pixels in canvases(samples, config):
        model(normalised(pixels))
    model.fit()
    return of_anomalib(model.eval())


def neighbours(samples: Sequence[Sample], config: TrainConfig, seed: int) -> Peer:
    """Nearest of 20,000 random training patches on Maskline's own tokens, all stages together."""
    target = build_target(config.model.target, config.model.preprocess.canvas).eval()
    with torch.inference_mode():
        raw = torch.cat([target.raw(pixels).half() for pixels in canvases(samples, config)])
        flat = raw.flatten(0, 1)
        sampled = flat[:: max(1, len(flat) // 100_000)].float()
        target.fit(sampled.mean(dim=0), sampled.std(dim=0))
        generator = torch.Generator().manual_seed(seed)
        bank = flat[torch.randperm(len(flat), generator=generator)[:20_000]]
        bank_memory = Memory([Block("tokens", target.token_dim)], len(bank))
        bank_memory.fit([target.standardise(bank)])
    reduction = Reduction(0.8, 0.0)
    side = config.model.preprocess.canvas

    def score(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            [distance] = bank_memory([target(pixels)])
        smoothed = reduction.smooth(distance, target.grid)
        maps = [
            canvas_map(smooth_map.numpy().reshape(target.grid.rows, -1), (side, side))
            for smooth_map in smoothed
        ]
        return reduction.image_score(smoothed).numpy(), np.stack(maps)

    return Peer(score, megabytes(target) + megabytes(bank_memory))


PEERS: dict[str, Fit] = {
    "PatchCore 2+3": patchcore((2, 3)),
    "PatchCore 3+4": patchcore((3, 4)),
    "PaDiM": padim,
    "EfficientAD-S (random teacher)": efficientad,
    "SuperSimpleNet": supersimplenet,
    "kNN": neighbours,
}


def _run(
    peer: Peer, samples: Sequence[Sample], config: TrainConfig
) -> tuple[np.ndarray, list[FloatArray], list[Placement], float]:
    scores: list[float] = []
    maps: list[FloatArray] = []
    placements: list[Placement] = []
    seconds = 0.0
    for batch in STRICT.on(config.model.preprocess.canvas).batches(samples):
        started = time.perf_counter()
        pixels, placed = preprocess([image for _, image in batch], config.model.preprocess)
        scored, drawn = peer.score(pixels)
        seconds += time.perf_counter() - started
        scores += scored.tolist()
        maps += list(drawn)
        placements += placed
    return np.array(scores), maps, placements, seconds
