"""What cheaper transformers would save: full, linear and windowed attention, and merged tokens.

    python -m bench.attention                       # time, on untrained weights
    python -m bench.attention ../data/brain_mri     # quality too: trains the recipe twice

Linear attention (Katharopoulos et al. 2020, elu + 1) takes the place of softmax attention
everywhere. Token merging (Bolya et al. 2023) averages the most alike pairs of encoded tokens after
each block, at inference only. Windows are what the model has (`model.mae.window`). Neither of the
first two is part of the product: this benchmark tells whether they should be.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F

from anomaly.device import usable_cores
from anomaly.mae import MaeConfig, MaskedAutoencoder, take
from anomaly.types import Grid
from training.config import load_recipe
from training.data import open_dataset
from training.pipeline import evaluate_model, train_model
from training.progress import QUIET

_TOKEN_DIM = 728  # of the default recipe's target
_ROUNDS = 9


def main() -> None:
    """Print the table of times, and of quality where a set is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"))
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    print(f"{usable_cores()} cores, torch {torch.__version__}, medians of {_ROUNDS}\n")
    print(
        "| autoencoder, tokens | full, ms an image | attention's share | linear | 8 merged a block "
        "| windows of 14 × 14 |\n|---|---|---|---|---|---|"
    )
    default = MaeConfig()
    wide = MaeConfig(768, 12, 12, decoder_width=512, decoder_depth=8, decoder_heads=16)
    for name, config in (("default", default), ("ViT-B", wide)):
        for side in (14, 28, 42):
            if side < 42 or config is default:
                print(timed(name, config, side), flush=True)
    for data in options.data:
        print(trained(data, options), flush=True)


@torch.inference_mode()
def timed(name: str, config: MaeConfig, side: int) -> str:
    """Measure one image's inspection: both halves predicted from each other, interleaved."""
    model = MaskedAutoencoder(config, Grid(side, side, 16), _TOKEN_DIM).eval()
    small = MaskedAutoencoder(config, Grid(14, 14, 16), _TOKEN_DIM).eval()
    windows = (side // 14) ** 2
    uncut, cut = halves(model, 1), halves(small, windows)

    def linear() -> None:
        with linear_attention():
            uncut()

    def without() -> None:
        with no_attention():
            uncut()

    merging = halves(merged(model, 8), 1)
    ways: dict[str, Callable[[], None]] = {
        "full": uncut,
        "without": without,
        "linear": linear,
        "merged": merging,
        "windows": cut,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    ms = {way: 1000 * statistics.median(times) for way, times in seconds.items()}
    share = 1 - ms["without"] / ms["full"]
    return (
        f"| {name}, {side} × {side} | {ms['full']:.1f} | {share:.0%} | {ms['linear']:.1f} "
        f"| {ms['merged']:.1f} | {ms['windows']:.1f} |"
    )


def halves(model: MaskedAutoencoder, images: int) -> Callable[[], None]:
    """Return a function that predicts each half of (images, L, C) tokens from the other."""
    length = model.position.shape[1]
    tokens = torch.randn(images, length, _TOKEN_DIM)
    order = torch.randperm(length)
    first, second = order[: length // 2].expand(images, -1), order[length // 2 :].expand(images, -1)

    def run() -> None:
        model(tokens, first, second)
        model(tokens, second, first)

    return run


Attention = Callable[..., torch.Tensor]


@contextmanager
def swapped(attention: Attention) -> Iterator[None]:
    """Put another attention in the place of torch's."""
    plain_attention = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain_attention


@contextmanager
def linear_attention() -> Iterator[None]:
    """Attend by feature maps: (B, heads, Q, d) in time that grows with Q, not with its square."""

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object
    ) -> torch.Tensor:
        query, key = F.elu(query) + 1, F.elu(key) + 1
        summary = key.transpose(-2, -1) @ value  # (B, heads, d, d)
        total = query @ key.sum(dim=-2).unsqueeze(-1)  # (B, heads, Q, 1)
        return (query @ summary) / total

    with swapped(attend):
        yield


@contextmanager
def no_attention() -> Iterator[None]:
    """Leave attention out, to see what it costs."""

    def skip(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object
    ) -> torch.Tensor:
        return query

    with swapped(skip):
        yield


def merged(model: MaskedAutoencoder, count: int) -> MaskedAutoencoder:
    """Return a twin with the same weights whose encoder merges `count` pairs after each block."""
    grid = Grid(round(model.position.shape[1] ** 0.5), round(model.position.shape[1] ** 0.5), 16)
    twin = MaskedAutoencoder(model.config, grid, model.embed.in_features).eval()
    twin.load_state_dict(model.state_dict())

    def encode(
        self: MaskedAutoencoder, tokens: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        x = self.embed(take(tokens, visible)) + take(self.position, visible)
        for block in self.blocks:
            x = merge(block(x), count)
        encoded: torch.Tensor = self.norm(x)
        return encoded

    twin.encode = MethodType(encode, twin)  # type: ignore[method-assign]
    return twin


def merge(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Average the `count` most alike pairs of even and odd places: (B, K, D) to (B, K-count, D)."""
    even, odd = tokens[:, ::2], tokens[:, 1::2]
    count = min(count, even.shape[1] - 1)
    alike = F.normalize(even, dim=-1) @ F.normalize(odd, dim=-1).transpose(1, 2)
    best, partner = alike.max(dim=2)
    order = best.argsort(dim=1, descending=True)
    gone, stays = order[:, :count], order[:, count:]
    target = partner.gather(1, gone)
    wide = (-1, -1, tokens.shape[2])
    merging = even.gather(1, gone.unsqueeze(-1).expand(*wide))
    odd = odd.scatter_reduce(1, target.unsqueeze(-1).expand(*wide), merging, reduce="mean")
    return torch.cat([even.gather(1, stays.unsqueeze(-1).expand(*wide)), odd], dim=1)


@dataclass(frozen=True, slots=True)
class Quality:
    """What a way to attend gives on a set."""

    synthetic: float
    image_auroc: float
    seconds: float


def trained(data: Path, options: argparse.Namespace) -> str:
    """Train the recipe with softmax and with linear attention, and test both."""
    rows = [
        f"\n| {data.name}, {options.recipe} | synthetic AUROC | image AUROC | train s |",
        "|---|---|---|---|",
    ]
    for name, linear in (("softmax", False), ("linear", True)):
        figures_ = quality(data, options, name, linear=linear)
        rows.append(
            f"| {name} | {figures_.synthetic:.3f} | {figures_.image_auroc:.3f} | "
            f"{figures_.seconds:.0f} |"
        )
    return "\n".join(rows)


def quality(data: Path, options: argparse.Namespace, name: str, *, linear: bool) -> Quality:
    """Train and test with one way to attend."""
    config = load_recipe(options.recipe, options.set)
    config = replace(config, run=replace(config.run, export="never"))
    dataset, folder = open_dataset(data), options.out / f"{data.name}-{name}"
    started = time.monotonic()
    with linear_attention() if linear else nullcontext():
        bundle = train_model(dataset, folder, config, progress=QUIET)
        seconds = time.monotonic() - started
        figures, _ = evaluate_model(folder, dataset, progress=QUIET)
    calibration = bundle.calibration
    synthetic = 0.0 if calibration is None else calibration.synthetic_auroc or 0.0
    return Quality(synthetic, figures["image_AUROC"], seconds)


if __name__ == "__main__":
    main()
