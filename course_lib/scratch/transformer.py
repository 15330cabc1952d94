"""A decoder small enough to read in one go and to train in a chapter; any readout can take softmax's place.

As in GPT-2 (Radford et al. 2019): learned positions, layer norm in front of each part, GELU, tied embeddings.
With `rotary` it knows distances in place of places (Su et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from course_lib import readouts


@dataclass(frozen=True)
class Config:
    """The shape of a `Transformer`."""

    vocab: int  # token ids are 0 … vocab − 1
    length: int  # of the longest sequence
    layers: int = 2
    heads: int = 2
    d: int = 64  # width of the residual stream; each head has d / heads of it
    rotary: bool = False  # turn queries and keys by their position, in place of learned positions
    mlp: bool = True  # a two-layer network behind each attention


def turned(x: torch.Tensor) -> torch.Tensor:
    """Turns pairs of coordinates by angles that grow with the position: q·k then depends on distances only.

    Args:
        x: (..., T, d), d even; coordinates i and i + d/2 turn by t · 1000^(−2i/d) at position t.

    Returns:
        (..., T, d), of the same lengths (Su et al. 2021, eq. 34).
    """
    time, half = x.shape[-2], x.shape[-1] // 2
    speeds = 1000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angles = torch.arange(time, device=x.device, dtype=x.dtype)[:, None] * speeds  # (T, d / 2)
    a, b = x.split(half, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


class Attention(nn.Module):
    """Several heads that attend side by side.

    Of the last pass it keeps `alpha` (B, heads, T, T), the weights, and `mixed` (B, heads, T, d / heads).
    """

    def __init__(self, config: Config, readout: readouts.Readout) -> None:
        super().__init__()
        self.heads, self.readout, self.rotary = config.heads, readout, config.rotary
        self.queries_keys_values = nn.Linear(config.d, 3 * config.d)
        self.out = nn.Linear(config.d, config.d)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Lets positions (B, T, d) read from those that the mask (T, T) allows them to see."""
        # each (B, heads, T, d / heads)
        q, k, v = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = turned(q), turned(k)
        mixed, alpha = self.readout(q, k, v, mask)
        self.alpha, self.mixed = alpha.detach(), mixed.detach()
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, d)


class Block(nn.Module):
    """One layer: attention, then perhaps a network at each position; each adds to the residual stream."""

    def __init__(self, config: Config, readout: readouts.Readout) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.d)
        self.attention = Attention(config, readout)
        self.mlp = config.mlp
        if config.mlp:
            self.norm_mlp = nn.LayerNorm(config.d)
            self.up, self.down = nn.Linear(config.d, 4 * config.d), nn.Linear(4 * config.d, config.d)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, d) to (B, T, d)."""
        x = x + self.attention(self.norm_attention(x), mask)
        if not self.mlp:
            return x
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class Transformer(nn.Module):
    """A causal language model: `Transformer(config)(tokens)` predicts at each position the next token.

    Args:
        config: its shape.
        readout: how its heads attend, see `course_lib.readouts`.

    Raises:
        ValueError: the heads do not divide the width, or are of odd width and rotary.
    """

    def __init__(self, config: Config, readout: readouts.Readout = readouts.softmax) -> None:
        super().__init__()
        if config.d % config.heads:
            raise ValueError(f"d={config.d}: expected a multiple of heads={config.heads}")
        if config.rotary and config.d // config.heads % 2:
            raise ValueError(f"rotary=True: expected heads of even width, got {config.d // config.heads}")
        self.config = config
        self.tokens = nn.Embedding(config.vocab, config.d)
        self.positions = None if config.rotary else nn.Embedding(config.length, config.d)
        self.blocks = nn.ModuleList(Block(config, readout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token.

        Args:
            tokens: (B, T) token ids, T at most `config.length`.

        Returns:
            (B, T, vocab).

        Raises:
            ValueError: the sequences are too long.
        """
        time = tokens.shape[-1]
        if time > self.config.length:
            raise ValueError(f"tokens: {time} positions, expected at most {self.config.length}")
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[:time]
        mask = torch.ones(time, time, dtype=torch.bool, device=tokens.device).tril()
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) @ self.tokens.weight.T


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of a trained model, computed where it is: (B, T) token ids to (B, T, vocab) on the CPU."""
    return model(tokens.to(next(model.parameters()).device)).float().cpu()
