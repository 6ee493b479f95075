import math
from pathlib import Path

import pytest

from training.config import TrainConfig, load_recipe, recipe_names
from training.errors import RecipeError


def test_every_packaged_recipe_loads() -> None:
    assert {"default", "demo", "pixels"} <= set(recipe_names())
    for name in recipe_names():
        assert isinstance(load_recipe(name), TrainConfig)


def test_overrides_are_toml_values_or_bare_words() -> None:
    config = load_recipe(
        "default",
        [
            "optimiser.steps=7",
            "model.target.stages=[1, 2]",
            "run.precision=fp32",
            "augment.fresh=true",
            "objective.mask_ratio=[0.6, 0.6]",
        ],
    )
    assert config.optimiser.steps == 7
    assert config.model.target.stages == (1, 2)
    assert config.run.precision == "fp32"
    assert config.augment.fresh
    assert config.objective.mask_ratio == (0.6, 0.6)


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[optimiser]\nsteps = 3\n")
    assert load_recipe(str(tmp_path / "mine.toml")).optimiser.steps == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimiser.stepz=1"], r"unknown key 'optimiser\.stepz'; known here: .*steps"),
        (["optimiser.steps=many"], "want int"),
        (["optimiser.steps=0"], "1 or more"),
        (["nonsense"], "key=value"),
        (["optimiser.steps.x=1"], "is a value, not a table"),
        (["objective.mask_ratio=[0.9, 0.1]"], "mask_ratio"),
        (["objective.decode_share=0.0"], "decode_share"),
        (["objective.cosine_weight=0", "objective.l2_weight=0"], "positive"),
        (["optimiser.ema_decay=1.0"], "ema_decay"),
        (["augment.copies=-1"], "copies"),
        (["augment.shift=0.9"], "shift"),
        (["model.scoring.errors=['msgms']"], "msgms"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("default", overrides)


def test_unknown_and_broken_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="default"):
        load_recipe("no-such-recipe")
    (tmp_path / "broken.toml").write_text("[optimiser\n")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(str(tmp_path / "broken.toml"))


def test_few_images_take_fewer_steps_and_the_rest_shrinks_with_them() -> None:
    usual = load_recipe("default", ["optimiser.epochs=100"])
    few = usual.bounded(70)
    assert (few.optimiser.steps, few.optimiser.warmup_steps) == (219, 22)
    assert 1 - few.optimiser.ema_decay == pytest.approx(0.002 * 600 / 219, rel=0.01)
    assert (few.evidence.steps, few.optimiser.batch_size) == (365, 32)
    assert few.detail.steps == math.ceil(math.sqrt(few.optimiser.steps / 600) * 1500)
    assert usual.bounded(315) is usual
    assert load_recipe("default", ["optimiser.epochs=0"]).bounded(2).optimiser.steps == 600
    fewest = load_recipe("default").bounded(30)
    assert (fewest.optimiser.batch_size, fewest.optimiser.steps) == (15, 100)
    assert usual.bounded(2).optimiser.batch_size == 8
    assert 0 <= usual.bounded(1).optimiser.ema_decay < 1
