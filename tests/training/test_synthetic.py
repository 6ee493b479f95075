from pathlib import Path

import numpy as np
import pytest

from training.data import open_dataset, read_mask
from training.synthetic import KINDS, PartsConfig, draw_part, write_parts


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_the_part_where_its_mask_says(kind: str) -> None:
    for seed in range(3):
        flawed, mask = draw_part(np.random.default_rng(seed), kind)
        assert flawed.shape == (480, 640, 3)
        assert 20 < mask.sum() < 0.05 * mask.size
        # A sound neighbour of the same size differs by light and brushing; the defect by more.
        sound, none = draw_part(np.random.default_rng(seed + 100))
        assert not none.any()
        assert sound.shape == flawed.shape


def test_parts_differ_in_pose_light_and_texture_but_a_seed_repeats_one() -> None:
    first, _ = draw_part(np.random.default_rng(1))
    again, _ = draw_part(np.random.default_rng(1))
    other, _ = draw_part(np.random.default_rng(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2


def test_the_set_is_written_in_mvtec_layout(tmp_path: Path) -> None:
    config = PartsConfig(train=3, validation=2, test_good=2, test_each=1, size=(120, 160))
    paths = list(write_parts(tmp_path, config))
    assert len(paths) == config.total == 12
    dataset = open_dataset(tmp_path)
    assert [len(dataset.select(s)) for s in ("train", "validation", "test")] == [3, 2, 7]
    for sample in dataset.select("test"):
        assert read_mask(sample, (120, 160)).any() != sample.is_normal
