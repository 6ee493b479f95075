"""A bfloat16 copy of a network that computes, while the float32 masters learn.

Processors with AMX multiply bfloat16 matrices several times as fast as float32 ones, but autocast
wins nothing of it: it casts weights and small tensors again and again, and the fused attention's
gradient in bfloat16 takes five times as long as in float32. So the weights are cast once a step,
activations stay in bfloat16, and attention is three plain products (docs/LOG.md).
"""

import copy

import torch
from torch import nn


class WorkingCopy:
    """Computes in bfloat16 what its masters, the float32 parameters of `network`, have learned.

    `network` takes tokens in bfloat16.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        for module in self.network.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", False)  # noqa: B010 - a module's attribute, untyped
        masters, copies = network.parameters(), self.network.parameters()
        self._pairs = [(m, c) for m, c in zip(masters, copies, strict=True) if m.requires_grad]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the masters' values; gradients of a step that failed are forgotten."""
        torch._foreach_copy_([c for _, c in self._pairs], [m.detach() for m, _ in self._pairs])
        for _, working in self._pairs:
            working.grad = None

    @torch.no_grad()
    def hand_over(self) -> None:
        """Add the gradients to the masters', in float32, and forget them here."""
        for master, working in self._pairs:
            if working.grad is None:
                continue
            gradient, working.grad = working.grad.float(), None
            master.grad = gradient if master.grad is None else master.grad + gradient
