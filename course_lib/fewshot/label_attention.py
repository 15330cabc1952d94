"""Attention from the last token of a prompt to the labels of its demonstrations, and what it carries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import one_hot

from course_lib import lm
from course_lib.fewshot.layout import LaidOut


class LabelAttention(NamedTuple):
    """What the heads do with the labels of k demonstrations, on the CPU."""

    attention: torch.Tensor  # (N, layers, heads, k) from the last token to each label
    start: torch.Tensor  # (N, layers, heads) from the last token to the first one
    written: torch.Tensor  # (N, layers, heads, k, labels) its value through W_O, as logits of the labels

    @property
    def scores(self) -> torch.Tensor:
        """(N, layers, heads, k) the score of each label, less that of the first token."""
        return (self.attention / self.start[..., None]).log()


def label_attention(model: lm.LanguageModel, laid_out: LaidOut) -> LabelAttention:
    """Attention to the labels of demonstrations, and what the value-output matrices make of each.

    Args:
        model: a language model.
        laid_out: N prompts of k demonstrations each.
    """
    layers = range(model.n_layers)
    towards = lm.unembedding(model)[laid_out.labels]
    write = lm.output_projections(model) @ (towards - towards.mean(0)).T  # (layers, heads, head_dim, labels)
    seen = lm.forward(model, laid_out.prompts, lm.Read(attention=layers)).attention[:, :, 0]
    at = torch.tensor([p.labels for p in laid_out.layouts], device=seen.device)[:, None, None]
    written: dict[tuple[int, ...], torch.Tensor] = {}  # by what stands before the query
    each = []
    for prompt in laid_out.layouts:
        shown = tuple(prompt.tokens[: prompt.labels[-1] + 1])
        if shown not in written:
            values = lm.values(model, shown, layers)[:, :, prompt.labels]  # (layers, heads, k, head_dim)
            written[shown] = torch.einsum("lhjk,lhkc->lhjc", values, write)
        each.append(written[shown])
    attention = seen.gather(-1, at.expand(*seen.shape[:-1], -1))
    return LabelAttention(attention.cpu(), seen[..., 0].cpu(), torch.stack(each).cpu())


def attention_by_label(attention: torch.Tensor, shown: torch.Tensor, n_labels: int) -> torch.Tensor:
    """The attention that each label receives, over the demonstrations that have it.

    Args:
        attention: (N, ..., k) weights of the k demonstrations.
        shown: (N, k) the label of each demonstration.
        n_labels: how many labels there are.

    Returns:
        (N, ..., n_labels).
    """
    hot = one_hot(shown, n_labels).to(attention)  # (N, k, labels)
    between = [1] * (attention.ndim - 2)
    return (attention[..., None] * hot.view(len(shown), *between, *hot.shape[1:])).sum(-2)
