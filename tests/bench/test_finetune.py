import argparse
from pathlib import Path

from bench.finetune import WAYS, few_labels, recipes, table
from training.samples import Sample


def test_few_labels_leave_so_many_of_each_kind_and_all_of_the_test() -> None:
    samples = [
        Sample(Path(f"{kind}{i}"), kind, "test", f"{kind}-tile{i // 2}", digest=f"{kind}{i}")
        for kind in ("good", "crack")
        for i in range(20)
    ]
    labelled = few_labels(samples, 3, 0, Path("tiles"))
    assert [s.label for s in labelled.train].count("crack") == 3
    assert [s.label for s in labelled.test].count("crack") == 6
    assert not {s.session for s in labelled.train} & {s.session for s in labelled.test}
    assert few_labels(samples, 3, 0, Path("tiles")) == labelled
    assert few_labels(samples, 3, 1, Path("tiles")) != labelled


def test_every_way_has_the_same_steps() -> None:
    configs = recipes(argparse.Namespace(steps=70), seed=4)
    assert tuple(configs) == WAYS
    assert {c.optimiser.steps(60) for c in configs.values()} == {70}
    assert configs["scratch"].variation == configs["full"].variation
    assert configs["scratch"].tune.layer_decay == 1.0


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    rows = [
        {"set": "tiles", "way": way, "balanced_accuracy": value, "seconds": 2.0}
        for way in WAYS
        for value in (0.4, 0.6)
    ]
    assert "full             0.500 ± 0.100" in table(rows)
