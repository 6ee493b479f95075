"""Fits the memory of normal patches and the repair head, which stand beside the autoencoder.

Both are fitted after the autoencoder's training and need only its predictions. The repair head sees
synthetic corruption of training images (`anomaly.corruption`); no real defect is looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from anomaly.bands import folded
from anomaly.corruption import corrupt
from anomaly.model import AnomalyModel
from anomaly.patches import unfold_cells
from anomaly.preprocess import PreprocessConfig, placement_of, preprocess
from anomaly.types import RgbImage
from training.config import EvidenceConfig, TrainConfig
from training.coreset import select
from training.data import Sample
from training.decoding import STRICT
from training.progress import SHOWN, Progress
from training.tokens import ImageTokens, target_tokens
from training.trainer import precision_of
from training.working_copy import WorkingCopy

_CHUNK = 8
_CANDIDATES = 60_000  # cells of a block among which its memory is chosen
_COVERED = 0.3  # share of a cell that is altered before it counts as corrupted
_CHANGED = 0.1  # mean squared change of a corrupted cell's standardised features, at least


@dataclass(frozen=True, slots=True)
class _Pair:
    """Tokens and predictions of N images, (N, L, C) float16 each."""

    true: torch.Tensor
    predicted: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Material:
    """N normal images and M corrupted copies of them.

    `origin` (M,) is the image that a copy was made of, `altered` (M, rows, cols) how much of each
    map cell was altered.
    """

    normal: _Pair
    corrupted: _Pair
    origin: torch.Tensor
    altered: torch.Tensor


def fit_evidence(
    model: AnomalyModel,
    samples: Sequence[Sample],
    source: ImageTokens,
    config: TrainConfig,
    *,
    progress: Progress = SHOWN,
) -> None:
    """Fit the memory and the repair head of a trained model, in place."""
    rows = _rows(len(samples), model, config)
    if model.memory is not None:
        fit_memory(model, source, rows, config.run.seed)
    if model.repair is not None:
        material = _material(model, samples, source, rows=rows, config=config, progress=progress)
        fit_repair(model, material, config, progress=progress)


@torch.inference_mode()
def fit_memory(model: AnomalyModel, source: ImageTokens, rows: Sequence[int], seed: int) -> None:
    """Fill each bank with a coreset of random cells, as many of each training image."""
    memory = model.memory
    if memory is None:
        return
    generator = torch.Generator().manual_seed(seed)
    cells_each = -(-max(_CANDIDATES, memory.size) // len(rows))
    banks: list[list[torch.Tensor]] = [[] for _ in model.target.blocks]
    for chunk in _chunks(rows):
        parts = model.target.cells(model.target.to_predict(source.whole(chunk)).cpu())
        for bank, cells in zip(banks, parts, strict=True):  # (N, cells, channels)
            drawn = torch.rand(cells.shape[:2], generator=generator).argsort(dim=1)[:, :cells_each]
            bank += [image_cells[index] for image_cells, index in zip(cells, drawn, strict=True)]
    joined = [torch.cat(bank) for bank in banks]
    memory.fit([bank[select(bank, memory.size, generator)] for bank in joined])


def fit_repair(
    model: AnomalyModel, material: _Material, config: TrainConfig, *, progress: Progress = SHOWN
) -> None:
    """Train each block's head to tell altered cells from normal ones."""
    repair = model.repair
    if repair is None:
        return
    settings, generator = config.evidence, torch.Generator().manual_seed(config.run.seed)
    device = model.target.mean.device
    in_halves = device.type == "cpu" and precision_of(config, device) == torch.bfloat16
    with progress.bar("repair head", total=settings.steps * len(repair.heads), unit="step") as bar:
        for index, head in enumerate(repair.heads):
            normal = _flat(model, material.normal, index)
            corrupted = _flat(model, material.corrupted, index)
            positive = _positive(model, material, index)
            if len(positive):
                _train_head(
                    head,
                    normal,
                    corrupted,
                    positive=positive,
                    settings=settings,
                    generator=generator,
                    in_halves=in_halves,
                    bar=bar,
                )


def _train_head(
    head: nn.Module,
    normal: tuple[torch.Tensor, torch.Tensor],
    corrupted: tuple[torch.Tensor, torch.Tensor],
    *,
    positive: torch.Tensor,
    settings: EvidenceConfig,
    generator: torch.Generator,
    in_halves: bool,
    bar: "tqdm[None]",
) -> None:
    device = next(head.parameters()).device
    # Two classes in small batches: what bfloat16's rounding adds is less than what is drawn.
    working = WorkingCopy(head) if in_halves else None
    network = head if working is None else working.network
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    altered = settings.batch_size // 4
    label = (torch.arange(settings.batch_size) < altered).float().to(device)
    head.train()
    for _ in range(settings.steps):
        corrupted_rows = positive[torch.randint(len(positive), (altered,), generator=generator)]
        normal_rows = torch.randint(
            len(normal[0]), (settings.batch_size - altered,), generator=generator
        )
        true = torch.cat([corrupted[0][corrupted_rows], normal[0][normal_rows]]).to(device).float()
        predicted = (
            torch.cat([corrupted[1][corrupted_rows], normal[1][normal_rows]]).to(device).float()
        )
        inputs = torch.cat([true, predicted, true - predicted], dim=1)
        optimiser.zero_grad(set_to_none=True)
        if working is not None:
            working.refresh()
            inputs = inputs.bfloat16()
        logits = network(inputs).squeeze(-1).float()
        loss = F.binary_cross_entropy_with_logits(logits, label)
        loss.backward()  # type: ignore[no-untyped-call]
        if working is not None:
            working.hand_over()
        optimiser.step()
        schedule.step()
        bar.update()
    head.eval()


def _material(
    model: AnomalyModel,
    samples: Sequence[Sample],
    source: ImageTokens,
    *,
    rows: Sequence[int],
    config: TrainConfig,
    progress: Progress,
) -> _Material:
    corruption = _Corruption(model, np.random.default_rng((config.run.seed, 5)))
    normal: list[_Pair] = []
    corrupted: list[_Pair] = []
    altered: list[torch.Tensor] = []
    origin: list[torch.Tensor] = []
    copies = max(1, min(config.evidence.copies, _patch_limit(model, config) // len(rows)))
    with progress.bar("corruption", total=len(rows), unit="image") as bar:
        for chunk in _chunks(rows):
            read = STRICT.on(config.model.preprocess.canvas).images([samples[i] for i in chunk])
            images = [image for _, image in read]
            first = sum(len(pair.true) for pair in normal)
            normal.append(_pair(model, source.whole(chunk), chunk))
            for copy in range(copies):
                pixels, shares = corruption(images)
                seeds = [copy * len(samples) + row for row in chunk]
                corrupted.append(_pair(model, target_tokens(model.target, pixels), seeds))
                altered.append(shares)
                origin.append(torch.arange(first, first + len(chunk)))
            bar.update(len(chunk))
    return _Material(_joined(normal), _joined(corrupted), torch.cat(origin), torch.cat(altered))


@dataclass(slots=True)
class _Corruption:
    """Draws corrupted copies; the previous image is the donor of each."""

    model: AnomalyModel
    generator: np.random.Generator
    donor: RgbImage | None = None

    def __call__(self, images: Sequence[RgbImage]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return canvases (N, 3, S, S) and each map cell's altered share (N, rows, cols)."""
        copies, masks = [], []
        for image in images:
            copy, mask = corrupt(image, self.donor or images[-1], self.generator)
            copies.append(copy)
            masks.append(mask)
            self.donor = image
        pixels, _ = preprocess(copies, self.model.config.preprocess)
        return pixels, altered_cells(self.model, masks)


def altered_cells(model: AnomalyModel, masks: Sequence[np.ndarray]) -> torch.Tensor:
    """Share of each map cell that a defect covers, (N, rows, cols), from image masks (H, W)."""
    config, grid = model.config.preprocess, model.target.map_grid
    shares = [torch.from_numpy(canvas_share(mask, config)) for mask in masks]
    return F.adaptive_avg_pool2d(torch.stack(shares), (grid.rows, grid.cols))


def canvas_share(mask: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Share of each pixel of a square canvas that a defect covers, (S, S), from a mask (H, W)."""
    placement = placement_of(mask.shape, config)
    top, left, bottom, right = placement.box
    share = np.zeros(placement.canvas, np.float32)
    share[top:bottom, left:right] = cv2.resize(
        mask.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_AREA
    )
    return folded(share)


@torch.inference_mode()
def _pair(model: AnomalyModel, tokens: torch.Tensor, seeds: Sequence[int]) -> _Pair:
    """Predict (N, L, C) tokens as an inspection would, but under one repeat of masks."""
    masking = replace(model.config.scoring.masking, repeats=1)
    predicted = model.predict(tokens, seeds, masking)[:, 0]
    return _Pair(model.target.to_predict(tokens).half().cpu(), predicted.half().cpu())


def _joined(pairs: Sequence[_Pair]) -> _Pair:
    return _Pair(
        torch.cat([pair.true for pair in pairs]), torch.cat([pair.predicted for pair in pairs])
    )


def _flat(model: AnomalyModel, pair: _Pair, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One block's cells of all images, true and predicted, (N·cells, channels) float16 each."""
    start = sum(block.width for block in model.target.blocks[:index])
    block = model.target.blocks[index]
    return tuple(  # type: ignore[return-value]
        unfold_cells(x[:, :, start : start + block.width], model.target.grid, block.cells).flatten(
            0, 1
        )
        for x in (pair.true, pair.predicted)
    )


def _positive(model: AnomalyModel, material: _Material, index: int) -> torch.Tensor:
    """Indices of the corrupted cells of a block whose features did change."""
    block = model.target.blocks[index]
    grid = model.target.grid.refined(block.cells)
    share = F.adaptive_avg_pool2d(material.altered, (grid.rows, grid.cols)).flatten()
    normal, corrupted = (
        _flat(model, pair, index)[0] for pair in (material.normal, material.corrupted)
    )
    covered = (share > _COVERED).nonzero().squeeze(1)
    before = material.origin[covered // grid.length] * grid.length + covered % grid.length
    change = (corrupted[covered].float() - normal[before].float()).square().mean(dim=1)
    return covered[change > _CHANGED]


def _rows(count: int, model: AnomalyModel, config: TrainConfig) -> list[int]:
    """Draw the images to look at: all, or as many as the bound on patches allows."""
    order = np.random.default_rng((config.run.seed, 6)).permutation(count)
    return sorted(order[: _patch_limit(model, config)].tolist())


def _patch_limit(model: AnomalyModel, config: TrainConfig) -> int:
    """How many images the bound on patches allows."""
    return max(8, config.evidence.patches // model.target.grid.length)


def _chunks(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _CHUNK):
        yield list(rows[start : start + _CHUNK])
