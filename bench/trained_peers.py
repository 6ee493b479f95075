"""Peers that are trained step by step, chosen elsewhere for their speed and sharp maps.

Both are anomalib's networks with their documented losses, optimisers and schedules, trained for
about as long as Maskline trains on the same two cores instead of their documented tens of
thousands of steps (EfficientAD) or hundreds of epochs (SuperSimpleNet). Nothing is downloaded, and
that costs EfficientAD what it stands on: its teacher, distilled from ImageNet, is left random, and
the penalty that keeps its student from imitating the teacher on other pictures is left out with the
pictures. SuperSimpleNet needs a pretrained backbone alone, and gets Maskline's in place of its
WideResNet50.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F

from bench.peer import Peer, canvases, give_weights, layer, megabytes, normalised, of_anomalib
from training.config import TrainConfig
from training.data import Sample

EFFICIENTAD_STEPS, EFFICIENTAD_BATCH = 300, 1  # documented: 70,000 of 1
SUPERSIMPLENET_STEPS, SUPERSIMPLENET_BATCH = 500, 4  # documented: 300 epochs of batches of 32
_LEAST_PX = 256  # EfficientAD takes nothing smaller
_KEPT_BACK = 10  # of so many training images one sets EfficientAD's quantiles
MEASURED = 64  # images are enough for its statistics and quantiles

Loss = Callable[[torch.Tensor], torch.Tensor]


def efficientad(samples: Sequence[Sample], config: TrainConfig, seed: int) -> Peer:
    """EfficientAD-S (Batzner et al. 2024) of anomalib with a random teacher, without its penalty.

    What it can show is how well a student imitates random features. Canvases below 256 pixels are
    enlarged for it, and its maps made smaller again.
    """
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel

    torch.manual_seed(seed)
    model = EfficientAdModel()
    model.teacher.requires_grad_(False)
    held_back = samples[::_KEPT_BACK][:MEASURED]
    trained_on = [sample for i, sample in enumerate(samples) if i % _KEPT_BACK]
    measured = in_random_order(trained_on, min(MEASURED, len(trained_on)), seed)
    model.mean_std.update(_teacher_statistics(model, map(_enlarged, canvases(measured, config))))
    trained = [*model.student.parameters(), *model.ae.parameters()]
    optimiser = torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, int(0.95 * EFFICIENTAD_STEPS), gamma=0.1)
    drawn = in_random_order(trained_on, EFFICIENTAD_STEPS * EFFICIENTAD_BATCH, seed)
    batches = _rebatched(map(_enlarged, canvases(drawn, config)), EFFICIENTAD_BATCH)
    _train(model, batches, partial(_efficientad_loss, model), schedule)
    model.quantiles.update(_map_quantiles(model, map(_enlarged, canvases(held_back, config))))
    side = config.model.preprocess.canvas

    def score(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            output = model(_enlarged(pixels))
            maps = F.interpolate(output.anomaly_map, size=(side, side), mode="bilinear")
        return output.pred_score.flatten().numpy(), maps.squeeze(1).numpy()

    return Peer(score, megabytes(model), model)


def supersimplenet(samples: Sequence[Sample], config: TrainConfig, seed: int) -> Peer:
    """SuperSimpleNet (Rolih et al. 2024) of anomalib, unsupervised, on strides 8 and 16.

    It learns to tell features from the same with noise on them. The noise (.015) is as
    documented, though set for another backbone: channels of this one deviate by 2. On 40 drawn
    parts at 128 px the peer told no defects after 500 steps (AUROC .40); on twenty fabrics at
    224 px, .87 after 40. Whoever reports its figures says so.
    """
    from anomalib.models.image.supersimplenet import torch_model
    from anomalib.models.image.supersimplenet.loss import SSNLoss

    torch.manual_seed(seed)
    # It has no switch against downloading the backbone's weights.
    offline = partial(torch_model.TimmFeatureExtractor, pre_trained=False)
    with mock.patch.object(torch_model, "TimmFeatureExtractor", offline):
        model = torch_model.SupersimplenetModel(
            backbone=config.model.target.backbone, layers=[layer(stage) for stage in (2, 3)]
        )
    give_weights(model.feature_extractor.feature_extractor, config)
    model.feature_extractor.requires_grad_(False)
    optimiser = torch.optim.AdamW(
        [
            {"params": model.adaptor.parameters(), "lr": 1e-4},
            {"params": model.segdec.parameters(), "lr": 2e-4, "weight_decay": 1e-5},
        ]
    )
    milestones = [int(share * SUPERSIMPLENET_STEPS) for share in (0.8, 0.9)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.4)
    criterion = SSNLoss()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = criterion(*model(normalised(pixels), labels=torch.zeros(len(pixels))))
        return value

    drawn = in_random_order(samples, SUPERSIMPLENET_STEPS * SUPERSIMPLENET_BATCH, seed)
    batches = _rebatched(canvases(drawn, config), SUPERSIMPLENET_BATCH)
    _train(model, batches, loss, schedule)
    return of_anomalib(model)


def in_random_order(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Draw samples in random order, each as often as any other to within one."""
    generator = np.random.default_rng(seed)
    rounds = -(-count // len(samples))
    order = np.concatenate([generator.permutation(len(samples)) for _ in range(rounds)])
    return [samples[i] for i in order[:count]]


def _train(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    loss: Loss,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Take a step for each batch, and leave the model ready to infer."""
    model.train()
    for pixels in batches:
        schedule.optimizer.zero_grad()
        torch.autograd.backward(loss(pixels))
        schedule.optimizer.step()
        schedule.step()
    model.eval()


def _rebatched(batches: Iterator[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    for batch in batches:
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def _enlarged(pixels: torch.Tensor) -> torch.Tensor:
    """Enlarge canvases to the least that EfficientAD takes."""
    side = max(pixels.shape[-1], _LEAST_PX)
    return F.interpolate(pixels, size=(side, side), mode="bilinear")


def _efficientad_loss(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Losses of `EfficientAdModel.compute_losses` but for the penalty on ImageNet's pictures."""
    channels = model.teacher_out_channels
    _, distance = model.compute_student_teacher_distance(pixels)
    hard = distance[distance >= torch.quantile(distance, 0.999)].mean()
    altered = model.choose_random_aug_image(pixels)
    with torch.no_grad():
        teacher = (model.teacher(altered) - model.mean_std["mean"]) / model.mean_std["std"]
    rebuilt = model.ae(altered, pixels.shape[-2:])
    imitated = model.student(altered)[:, channels:]
    loss: torch.Tensor = hard + F.mse_loss(rebuilt, teacher) + F.mse_loss(rebuilt, imitated)
    return loss


@torch.no_grad()
def _teacher_statistics(model: Any, batches: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mean and deviation of each of the teacher's channels, (1, C, 1, 1) each."""
    sums, squares, count = torch.zeros(()), torch.zeros(()), 0
    for pixels in batches:
        features = model.teacher(pixels).double()
        sums = sums + features.sum(dim=(0, 2, 3), keepdim=True)
        squares = squares + (features**2).sum(dim=(0, 2, 3), keepdim=True)
        count += features[:, 0].numel()
    mean = sums / count
    return {"mean": mean.float(), "std": (squares / count - mean**2).sqrt().float()}


@torch.no_grad()
def _map_quantiles(model: Any, batches: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Quantiles .9 and .995 of the two maps of images held back, by which maps are scaled."""
    pairs = [model.get_maps(pixels, normalize=False) for pixels in batches]
    names = ("st", "ae")
    quantiles = {}
    for name, maps in zip(names, zip(*pairs, strict=True), strict=True):
        values = torch.cat(maps).numpy()
        for end, share in (("qa", 0.9), ("qb", 0.995)):
            quantiles[f"{end}_{name}"] = torch.tensor(float(np.quantile(values, share)))
    return quantiles
