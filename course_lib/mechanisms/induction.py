"""Induction heads, which look up when the present token came before and copy what followed.

Olsson et al. (2022), "In-context Learning and Induction Heads": [… A B … A] → B. It takes two heads. The one
in the lower layer writes into each position what came before it; the one above looks for the position whose
predecessor is the present token, and copies the token that it finds there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from course_lib import readouts
from course_lib.scratch.transformer import Transformer


class Smeared(nn.Module):
    """Softmax with keys that are mixed with the key before them: a lower layer's work, built in.

    Each head learns how much (Olsson et al. 2022, "smeared key").
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(heads, 1, 1))

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `readouts.softmax`, on (B, heads, T, d)."""
        own = self.share.sigmoid()
        before = functional.pad(k, (0, 0, 1, 0))[..., :-1, :]
        return readouts.softmax(q, own * k + (1 - own) * before, v, mask)


def composition(reads: torch.Tensor, writes: torch.Tensor) -> torch.Tensor:
    """How much of what one head writes another one reads: ‖R W‖ / (‖R‖ ‖W‖) (Elhage et al. 2021).

    Args:
        reads: (..., m, d) the matrix R that reads the residual stream.
        writes: (..., d, k) the matrix W that wrote into it.

    Returns:
        (...), in Frobenius norms. For independent random matrices it is about 1/√d.
    """
    norms = reads.norm(dim=(-2, -1)) * writes.norm(dim=(-2, -1))
    return (reads @ writes).norm(dim=(-2, -1)) / norms


class Seen(NamedTuple):
    """What the heads of a small model do to N sequences of T tokens."""

    alpha: torch.Tensor  # (N, layers, heads, T, T)
    raised: torch.Tensor  # (N, layers, heads, T, V) what each head adds to the logits


@torch.no_grad()
def watch(model: Transformer, tokens: torch.Tensor) -> Seen:
    """Runs a small model and looks at its heads. The last norm's scale, which is positive, is left out."""
    model(tokens)
    alpha, raised = [], []
    read = model.tokens.weight * model.norm.weight  # (V, d)
    for block in model.blocks:
        each = block.attention
        out = each.out.weight.unflatten(1, (each.heads, -1))  # (d, heads, d / heads)
        written = torch.einsum("nhtk,dhk->nhtd", each.mixed, out)
        centred = written - written.mean(-1, keepdim=True)  # as the last norm does
        alpha.append(each.alpha)
        raised.append(centred @ read.T)
    return Seen(torch.stack(alpha, 1), torch.stack(raised, 1))


@torch.no_grad()
def key_composition(model: Transformer) -> torch.Tensor:
    """K-composition in a model of two layers: what the keys of layer 1 read of what layer 0 writes.

    Returns:
        (heads of layer 0, heads of layer 1).
    """
    first, second = (block.attention for block in model.blocks)
    heads, d = first.heads, model.config.d

    def split(each: nn.Module, gain: torch.Tensor) -> torch.Tensor:
        return (each.queries_keys_values.weight * gain).view(3, heads, d // heads, d)

    value = split(first, model.blocks[0].norm_attention.weight)[2]
    query, key, _ = split(second, model.blocks[1].norm_attention.weight)
    out = first.out.weight.unflatten(1, (heads, -1)).transpose(0, 1)  # (heads, d, d / heads)
    return composition((query.mT @ key)[None], (out @ value)[:, None])
