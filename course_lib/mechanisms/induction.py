"""Chapter 09: induction heads, which look up when the present token came before and copy what followed.

Olsson et al. (2022), "In-context Learning and Induction Heads": [… A B … A] → B. It takes two heads. The one
in the lower layer writes into each position what came before it; the one above looks for the position whose
predecessor is the present token, and copies the token that it finds there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from course_lib import lm
from course_lib.readouts import averages as attention
from course_lib.scratch.training import Draw
from course_lib.scratch.transformer import Transformer

# Sequences that can only be predicted from themselves


def copies(V: int = 32, length: int = 48, segment: int = 16, distance: int | None = None) -> Draw:
    """Draws random tokens in which one segment comes a second time.

    Args:
        V: tokens.
        length: of a sequence, at least two segments.
        segment: tokens that are repeated.
        distance: from the first time to the second; by default all that fit are equally likely.

    Raises:
        ValueError: the segment does not fit in twice, at that distance.
    """
    shortest, longest = (segment, length - segment) if distance is None else (distance, distance)
    if not segment <= shortest <= longest <= length - segment:
        raise ValueError(
            f"segment={segment}, distance={distance}: expected two segments that fit into {length} tokens"
        )

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(V, (n, length), generator=generator)
        distance = torch.randint(shortest, longest + 1, (n, 1), generator=generator)
        first = torch.rand(n, 1, generator=generator) * (length - segment + 1 - distance)
        source = first.long() + torch.arange(segment)  # (n, segment)
        return tokens.scatter(1, source + distance, tokens.gather(1, source))

    return draw


def repeated_pairs(tokens: torch.Tensor) -> torch.Tensor:
    """(N, T) whether a token and the one before it stood next to each other before."""
    same = tokens[:, :, None] == tokens[:, None, :]
    pair = functional.pad(same[:, 1:, 1:] & same[:, :-1, :-1], (1, 0, 1, 0))  # (N, T, T)
    return pair.tril(-1).any(-1)


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
        """As `attention.softmax`, on (B, heads, T, d)."""
        own = self.share.sigmoid()
        before = functional.pad(k, (0, 0, 1, 0))[..., :-1, :]
        return attention.softmax(q, own * k + (1 - own) * before, v, mask)


# What a head attends to and what it writes


def previous_token(alpha: torch.Tensor) -> torch.Tensor:
    """Previous-token score: mean attention to the position in front.

    Args:
        alpha: (N, layers, heads, T, T) attention weights.

    Returns:
        (layers, heads), over all positions that have one in front.
    """
    return alpha.diagonal(-1, -2, -1).mean((0, -1))


def prefix_matching(
    alpha: torch.Tensor, tokens: torch.Tensor, where: torch.Tensor | None = None
) -> torch.Tensor:
    """Prefix-matching score: mean attention to the tokens that followed the present token before.

    Args:
        alpha: (N, layers, heads, T, T) attention weights.
        tokens: (N, T).
        where: (N, T) positions to average over; by default all whose token came before.

    Returns:
        (layers, heads). A head that spreads its attention evenly scores the share of such tokens.
    """
    follows = functional.pad((tokens[:, :, None] == tokens[:, None, :])[:, :, :-1], (1, 0)).tril()
    where = follows.any(-1) if where is None else where
    mass = (alpha * follows[:, None, None]).sum(-1)  # (N, layers, heads, T)
    return torch.einsum("nlht,nt->lh", mass, where.to(mass)) / where.sum()


def copying(alpha: torch.Tensor, raised: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Copying score: does a head raise the logits of the tokens that it attends to?

    For each position, the correlation over tokens of the vocabulary between the attention that goes to a
    token and how much the head's output raises its logit.

    Args:
        alpha: (N, layers, heads, T, T) attention weights.
        raised: (N, layers, heads, T, V) what the head adds to the logit of each token.
        tokens: (N, T) of a vocabulary of V.

    Returns:
        (layers, heads) between −1 and 1, the means over positions; 0 if the two have nothing in common.
    """
    attended = alpha @ functional.one_hot(tokens, raised.shape[-1]).to(alpha)[:, None, None]  # (…, T, V)
    pair = [x - x.mean(-1, keepdim=True) for x in (attended, raised)]
    return functional.cosine_similarity(*pair, dim=-1)[..., 1:].mean((0, -1))


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


# The heads of a real model


def repeated(model: lm.LanguageModel, n: int = 8, length: int = 50, seed: int = 0) -> list[list[int]]:
    """Prompts in which different random tokens come twice: document start, t₁ … t_m, t₁ … t_m.

    Args:
        model: whose vocabulary they are drawn from, without its special tokens.
        n: how many prompts.
        length: m.
        seed: another seed draws others.
    """
    special = set(model.tokenizer.all_special_ids)
    vocabulary = [token for token in range(len(model.tokenizer)) if token not in special]
    generator = random.Random(seed)
    drawn = [generator.sample(vocabulary, length) for _ in range(n)]
    return [[*model.document_start, *tokens, *tokens] for tokens in drawn]


class Scores(NamedTuple):
    """What each head (layers, heads) does on repeated random tokens."""

    previous: torch.Tensor  # previous-token score
    prefix: torch.Tensor  # prefix-matching score on the second half
    copying: torch.Tensor  # copying score


def head_scores(
    model: lm.LanguageModel, prompts: Sequence[Sequence[int]], write: Sequence[lm.Write] = ()
) -> Scores:
    """Scores of all heads on the prompts of `repeated`, while some activations are overwritten."""
    layers, length = range(model.n_layers), len(prompts[0])
    start = len(model.document_start)
    m = (length - start) // 2
    read = lm.Read(heads=layers, attention=layers, positions=range(length))
    out = lm.forward(model, prompts, read, write)
    alpha = out.attention.transpose(2, 3)  # (N, layers, heads, T, T)
    tokens = torch.tensor(prompts, device=model.device)
    towards = lm.unembedding(model)[tokens[:, start : start + m]]  # (N, m, d)
    through = torch.einsum("lhkd,nvd->nlhkv", lm.output_projections(model), towards)
    raised = torch.einsum("nlthk,nlhkv->nlhtv", out.heads, through)
    places = torch.arange(m, device=model.device).repeat(
        len(prompts), 2
    )  # which token, for all but the start
    second = torch.arange(length, device=model.device).expand(tokens.shape) >= start + m
    return Scores(
        previous_token(alpha),
        prefix_matching(alpha, tokens, second),
        copying(alpha[..., start:, start:], raised[..., start:, :], places),
    )
