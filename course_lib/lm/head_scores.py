"""What heads attend to and what they write: prefix matching, previous token, copying (Olsson et al. 2022)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from course_lib.lm.actions import Read, Write
from course_lib.lm.forward import forward
from course_lib.lm.heads import output_projections, unembedding
from course_lib.lm.model import LanguageModel


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


def repeated_tokens(model: LanguageModel, n: int = 8, length: int = 50, seed: int = 0) -> list[list[int]]:
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


class HeadScores(NamedTuple):
    """What each head (layers, heads) does on repeated random tokens."""

    previous: torch.Tensor  # previous-token score
    prefix: torch.Tensor  # prefix-matching score on the second half
    copying: torch.Tensor  # copying score


def head_scores(
    model: LanguageModel, prompts: Sequence[Sequence[int]], write: Sequence[Write] = ()
) -> HeadScores:
    """Scores of all heads on the prompts of `repeated_tokens`, while some activations are overwritten."""
    layers, length = range(model.n_layers), len(prompts[0])
    start = len(model.document_start)
    m = (length - start) // 2
    read = Read(heads=layers, attention=layers, positions=range(length))
    out = forward(model, prompts, read, write)
    alpha = out.attention.transpose(2, 3)  # (N, layers, heads, T, T)
    tokens = torch.tensor(prompts, device=model.device)
    towards = unembedding(model)[tokens[:, start : start + m]]  # (N, m, d)
    through = torch.einsum("lhkd,nvd->nlhkv", output_projections(model), towards)
    raised = torch.einsum("nlthk,nlhkv->nlhtv", out.heads, through)
    places = torch.arange(m, device=model.device).repeat(len(prompts), 2)  # which token, behind the start
    second = torch.arange(length, device=model.device).expand(tokens.shape) >= start + m
    return HeadScores(
        previous_token(alpha),
        prefix_matching(alpha, tokens, second),
        copying(alpha[..., start:, start:], raised[..., start:, :], places),
    )
