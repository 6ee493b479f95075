import torch

from training.coreset import select


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_each_patch_kept_is_the_farthest_from_those_before() -> None:
    cells = torch.randn(300, 7, generator=generator())
    chosen = select(cells, 20, generator())
    kept = [0]
    for _ in range(19):
        kept.append(int(torch.cdist(cells, cells[kept]).amin(dim=1).argmax()))
    assert chosen.tolist() == kept


def test_rare_patches_are_kept_where_random_ones_would_miss_them() -> None:
    cells = torch.randn(5000, 96, generator=generator())
    cells[4990:] += 20
    chosen = select(cells.half(), 10, generator())
    assert (chosen >= 4990).any()


def test_no_patch_is_kept_twice_even_where_all_are_equal() -> None:
    chosen = select(torch.ones(30, 4), 20, generator())
    assert len(set(chosen.tolist())) == 20
    assert select(torch.ones(3, 4), 20, generator()).tolist() == [0, 1, 2]
