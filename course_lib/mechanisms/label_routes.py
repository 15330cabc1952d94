"""Locate and project, the routes: where labels are gathered, and how they reach the last token.

Yu & Ananiadou (2024) propose two steps. In shallow layers each demonstration is merged into its label token,
and the query into the last token. In deep layers a few in-context heads attend from the last token to labels
of demonstrations that are like the query; their value-output matrices carry the label. Wang et al. (2023),
"Label Words are Anchors", cut attention to show the same two steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from course_lib import lm
from course_lib.fewshot import LaidOut, label_measures, label_scores, links

FOUND, TESTED = 1, 2  # seeds of the prompts on which heads are found, and on which they are tested


def case_measures(laid_out: LaidOut, log_p: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is measured of the log-probabilities of labels, the mean over the queries of each case.

    Args:
        laid_out: C Q prompts.
        log_p: (C Q, labels) among all tokens.

    Returns:
        (C,) each: "accuracy", "calibrated accuracy", "log p" of the right label among the labels, in nats,
        and "mass", the probability of all labels together.
    """
    per_case = (-1, laid_out.n_queries)
    found = label_measures(log_p.unflatten(0, per_case), laid_out.right.unflatten(0, per_case))
    names = {"right": "accuracy", "calibrated": "calibrated accuracy"}
    return {names.get(name, name): values.float().mean(1) for name, values in found.items()}


def layer_ranges(model: lm.LanguageModel) -> list[range]:
    """All layers, the layers below a third, a half and two thirds of the model, and those from there on."""
    n = model.n_layers
    bounds = [n // 3, n // 2, 2 * n // 3]
    return [range(n), *(range(b) for b in bounds), *(range(b, n) for b in bounds)]


def cut_scores(model: lm.LanguageModel, laid_out: LaidOut, cut: str, layers: Sequence[int]) -> torch.Tensor:
    """(N, labels) log p of the labels with one of the `CUTS` made in some layers."""
    weigh = lm.Weigh(layers, [links(where, cut) for where in laid_out.layouts])
    return label_scores(model, laid_out.prompts, laid_out.labels, weigh=[weigh])
