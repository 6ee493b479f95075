"""Pretrains an autoencoder on many products' normal images, to start others. See `pretrain`."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from anomaly.bundle import Bundle, new_version, save_bundle
from training.checkpoint import fingerprint
from training.config import TrainConfig
from training.errors import RecipeError
from training.index import indexed
from training.loop import card_of, new_model, optimise
from training.progress import SHOWN, Progress
from training.shards import Shards, StreamTokens, find_shards
from training.tokens import TokenSetup, TokenSource, fresh_tokens
from training.world import ALONE, World


def pretrain(
    roots: Sequence[Path],
    out: Path,
    run: Path,
    config: TrainConfig,
    *,
    world: World = ALONE,
    resume: bool = False,
    relist: bool = False,
    progress: Progress = SHOWN,
) -> Bundle:
    """Train an autoencoder on all images below `roots`, or in their shards; save it uncalibrated.

    It has no memory and no repair head: those belong to a product. Of several processes the first
    one saves. Raises `DataError`, `TrainingDiverged` or `ResumeError`.
    """
    if config.augment.compression:
        raise RecipeError(
            "augment.compression is for training on a product: give pretraining images of "
            "every compression"
        )
    started = time.monotonic()
    progress = progress.within(is_first=world.is_first)
    run.mkdir(parents=True, exist_ok=True)
    model = new_model(config, world)
    setup = TokenSetup(model.target, model.window, run, world)
    shards = find_shards(roots)
    source, mark, images = _source(roots, shards, config, setup, relist=relist)
    loss = optimise(
        model,
        source,
        config,
        run_folder=run,
        mark=mark,
        world=world,
        resume=resume,
        progress=progress,
    )
    training = {"images": images} | card_of(model, config, world, loss=loss, started=started)
    origin = {"data": [root.name for root in roots], "maskline": version("maskline")}
    bundle = Bundle(out.absolute().name, model.eval(), None, {"training": training | origin})
    return save_bundle(bundle, out, new_version()) if world.is_first else bundle


def _source(
    roots: Sequence[Path],
    shards: Shards | None,
    config: TrainConfig,
    setup: TokenSetup,
    *,
    relist: bool,
) -> tuple[TokenSource, str, int | None]:
    """Return the tokens, the run's identity, and the number of images, if known."""
    if shards is not None:
        stream = StreamTokens(shards, config, setup)
        stream.fit()
        return stream, fingerprint(config, shards.digest), None
    world = setup.world
    if world.is_first:
        indexed(roots, setup.folder, again=relist)
    world.wait()
    samples = indexed(roots, setup.folder)
    return fresh_tokens(samples, config, setup), fingerprint(config, samples.digest), len(samples)
