"""The loop of fine-tuning: examples in, a trained network in place. Knows no task.

Every step is a function of the recipe's seed and its number: batches, views, mixing. There is no
early stopping and nothing is chosen on the test split.
"""

import math

import numpy as np
import torch

from anomaly.device import to_device
from supervised.network import SupervisedNetwork
from supervised.types import Answer
from training.errors import TrainingDiverged
from training.finetune.batch import LabelledBatch
from training.finetune.config import FinetuneConfig
from training.finetune.examples import Examples
from training.finetune.optimiser import freeze, new_optimiser, set_rate, training_mode
from training.finetune.tasks import TrainingTask
from training.finetune.variation import draw_moves, lit, moved
from training.progress import Progress
from training.schedule import batch_indices, ema_decay

_AT_ONCE = 32  # images of an evaluation


def tune(
    network: SupervisedNetwork,
    examples: Examples,
    task: TrainingTask,
    config: FinetuneConfig,
    *,
    progress: Progress,
) -> float:
    """Train on the network's device; returns the last loss. Raises `TrainingDiverged`."""
    settings, seed = config.optimiser, config.run.seed
    device = network.encoder.position.device
    freeze(network, config.tune)
    task.prepare(network, examples.truths)
    optimiser = new_optimiser(network, config.tune, settings)
    trained = [p for p in network.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trained] if settings.ema_decay else []
    steps, batch_size = settings.steps(len(examples)), settings.batch(len(examples))
    order = [batch_indices(i, len(examples), batch_size, seed).tolist() for i in range(steps)]
    training_mode(network)
    loss, forked = math.nan, [device] if device.type == "cuda" else []
    with progress.bar("tuning", total=steps, unit="step") as bar, torch.random.fork_rng(forked):
        for step, canvases in enumerate(examples.batches(order)):
            rate = set_rate(optimiser, step, steps, settings)
            truths = [examples.truths[i] for i in order[step]]
            batch = _varied(to_device(canvases, device), truths, step, config)
            value = _step(network, task, batch, optimiser, config=config, trained=trained)
            if average:
                decay = ema_decay(step, settings.ema_decay)
                torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - decay)
            bar.update()
            if (step + 1) % config.run.log_every == 0 or step + 1 == steps:
                loss = _checked(value, step)
                bar.tell(f"loss {loss:.4f}, rate {rate:.1e}", loss=loss, images_per_s=0.0)
    if average:
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in trained], average)
    network.eval()
    return loss


def answers_about(
    network: SupervisedNetwork, examples: Examples, *, progress: Progress
) -> list[Answer]:
    """Ask a trained network about every example, as it lies on its canvas."""
    count = len(examples)
    chunks = [list(range(i, min(i + _AT_ONCE, count))) for i in range(0, count, _AT_ONCE)]
    answers: list[Answer] = []
    with torch.inference_mode(), progress.bar("testing", total=count, unit="image") as bar:
        for chunk, canvases in zip(chunks, examples.batches(chunks), strict=True):
            pixels = to_device(canvases, network.encoder.position.device)
            answers += network.answers(pixels, [examples.placements[i] for i in chunk])
            bar.update(len(chunk))
    return answers


def precision_of(config: FinetuneConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of products: bfloat16 on a GPU that has it, float32 elsewhere."""
    if config.run.precision != "auto":
        return torch.bfloat16 if config.run.precision == "bf16" else torch.float32
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu else torch.float32


def _varied(
    pixels: torch.Tensor, truths: list[object], step: int, config: FinetuneConfig
) -> LabelledBatch:
    generator = np.random.default_rng((config.run.seed, 4, step))
    torch.manual_seed(int(generator.integers(2**63)))  # of what drops out
    moves = draw_moves(len(pixels), config.variation, generator)
    views = lit(moved(pixels, moves), config.variation, generator)
    return LabelledBatch(views, truths, moves, generator)


def _step(
    network: SupervisedNetwork,
    task: TrainingTask,
    batch: LabelledBatch,
    optimiser: torch.optim.Optimizer,
    *,
    config: FinetuneConfig,
    trained: list[torch.nn.Parameter],
) -> torch.Tensor:
    device = batch.pixels.device
    precision = precision_of(config, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = task.loss(network, batch)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.optimiser.clip_norm:
        torch.nn.utils.clip_grad_norm_(trained, config.optimiser.clip_norm)
    optimiser.step()
    return loss.detach()


def _checked(loss: torch.Tensor, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the loss became {value} at step {step + 1}; lower optimiser.learning_rate, or set "
            "run.precision to fp32, and train again"
        )
    return value
