"""Rates of training."""

import os
from dataclasses import replace

from bench.gpu.check import Check, Rows

_VIT_B = (
    "model.mae.width=768",
    "model.mae.depth=12",
    "model.mae.heads=12",
    "model.mae.decoder_width=512",
    "model.mae.decoder_depth=4",
    "model.mae.decoder_heads=16",
)


def training(check: Check) -> Rows:
    """Rates of training: the default autoencoder and ViT-B, compiled and not, cached and fresh."""
    from bench.training import rates_of
    from training.config import load_recipe
    from training.data import open_dataset

    samples = open_dataset(check.data or check.parts).normal("train")[: 32 if check.small else 200]
    steps = 2 if check.small else 20
    ways: dict[str, list[str]] = {
        "default, batch 32": [],
        "default, batch 256": ["optimiser.batch_size=256"],
        "default, batch 256, compiled": ["run.compile=true", "optimiser.batch_size=256"],
        "default, batch 64, fresh": ["augment.fresh=true", "optimiser.batch_size=64"],
        "ViT-B, batch 128": [*_VIT_B, "optimiser.batch_size=128"],
        "ViT-B, batch 128, compiled": [*_VIT_B, "optimiser.batch_size=128", "run.compile=true"],
    }
    if check.small:
        ways = {name: ways[name] for name in list(ways)[:1]}
    for name, overrides in ways.items():
        config = load_recipe("default", ["plan.canvases=[]", *overrides])
        workers = replace(config.run, workers=max(2, (os.cpu_count() or 4) - 2))
        config = replace(config, run=workers)
        measured = rates_of(samples, config, steps=steps, rounds=3, peak=check.peak or 1e12)
        yield {
            "training": name,
            "images/s": measured.rates["images_per_s"],
            "GFLOP an image": measured.flops / 1e9,
            "of the bf16 rate": measured.rates["matrix_share"],
            "waiting for data": measured.rates["data_wait"],
        }
