"""Few patches that stand for many: greedy k-centre selection.

The next patch kept is always the one farthest from all kept so far (Sener and Savarese 2018;
PatchCore, Roth et al. 2022), so that rare normal patches are remembered as well as common ones.
Random patches repeat the common ones instead and then call the rare ones anomalous (docs/LOG.md). A
defect among the training images is remembered just the same.
"""

import torch

_PROJECTED = 64  # distances are kept by random projections (Johnson and Lindenstrauss 1984)


@torch.inference_mode()
def select(cells: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return indices of at most `size` of (N, C) cells, farthest first; N must be 1 or more."""
    points = cells.float()
    if points.shape[1] > _PROJECTED:
        directions = torch.randn(points.shape[1], _PROJECTED, generator=generator)
        points = points @ (directions / _PROJECTED**0.5).to(points.device)
    squares = points.square().sum(dim=1)
    picked = torch.zeros(min(size, len(points)), dtype=torch.int64, device=points.device)
    distance = torch.full_like(squares, torch.inf)
    for k in range(1, len(picked)):
        last = picked[k - 1]
        square = squares + squares[last] - 2 * (points @ points[last])
        distance = torch.minimum(distance, square)
        distance[last] = -torch.inf  # chosen already: rounding must not bring it back
        picked[k] = distance.argmax()
    return picked
