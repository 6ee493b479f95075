import pytest

from training.config import finetune_names, recipe_names
from training.errors import RecipeError
from training.finetune.config import load_finetune


def test_every_recipe_loads_and_is_no_recipe_of_anomalies() -> None:
    assert not set(finetune_names()) & set(recipe_names())
    trained = {name: load_finetune(name).tune.train for name in finetune_names()}
    assert trained == {
        "finetune-boxes": "all",
        "finetune-full": "all",
        "finetune-linear": "head",
        "finetune-masks": "all",
        "finetune-partial": "last",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.train=nothing", "tune.train"),
        ("tune.blocks=0", "tune.blocks"),
        ("tune.layer_decay=0.0", "layer_decay"),
        ("tune.drop_path=1.0", "drop_path"),
        ("loss.smoothing=1.0", "smoothing"),
        ("loss.mixup=-1.0", "mixup"),
        ("variation.crop=[0.0, 1.0]", "crop"),
        ("variation.shift=0.5", "shift"),
        ("optimiser.batch_size=3", "even batch_size"),
        ("optimiser.epochs=0", "epochs"),
        ("optimiser.warmup_epochs=1000", "warmup_epochs"),
        ("optimiser.learning_rate=nan", "learning_rate"),
        ("optimiser.momentum=1.0", "momentum"),
        ("optimiser.pace=1", "unknown key"),
        ("task=poetry", "task"),
    ],
)
def test_an_impossible_value_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_finetune("finetune-full", [override])


def test_batches_are_even_and_no_larger_than_the_set() -> None:
    optimiser = load_finetune("finetune-full").optimiser
    assert [optimiser.batch(count) for count in (2, 3, 11, 500)] == [2, 2, 10, 32]
    assert optimiser.steps(4) == 300
    assert optimiser.steps(1000) == 3125
