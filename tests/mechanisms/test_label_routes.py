"""Answers per case, and cuts in ranges of layers."""

import pytest
import torch
from letters import laid_out

from course_lib import fewshot, lm
from course_lib.mechanisms import label_routes as routes


def test_measures_of_cases(llama):
    given = laid_out(llama)
    logits = torch.tensor([[0.0, 1.0], [0.0, 0.5], [3.0, 0.0], [2.0, 0.0]])
    found = routes.case_measures(given, logits.log_softmax(-1) - 1)
    assert found["accuracy"].tolist() == [0.5, 0.5]  # each case has one query answered by its favourite
    assert found["calibrated accuracy"].tolist() == [1.0, 1.0]  # less what a case favours, both are right
    log_p = logits.log_softmax(-1)[range(4), [1, 0, 0, 1]]
    torch.testing.assert_close(found["log p"], log_p.view(2, 2).mean(1))
    assert found["mass"].tolist() == pytest.approx([0.3679, 0.3679], abs=1e-4)  # e⁻¹


def test_ranges_are_all_layers_and_halves_that_complete_each_other(real):
    every, *halves = routes.layer_ranges(real)
    assert every == range(30)
    assert halves == [range(10), range(15), range(20), range(10, 30), range(15, 30), range(20, 30)]


def test_cut_links_change_the_scores(llama):
    given = laid_out(llama)
    whole = fewshot.label_scores(llama, given.prompts, given.labels)
    weigh = lm.Weigh([0, 2], [fewshot.links(where, "texts to labels") for where in given.layouts])
    logits = lm.forward(llama, given.prompts, weigh=weigh).logits.log_softmax(-1)[:, given.labels]
    found = routes.cut_scores(llama, given, "texts to labels", [0, 2])
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)
    assert (found - whole).abs().max() > 1e-4
    nowhere = routes.cut_scores(llama, given, "texts to labels", [])
    torch.testing.assert_close(nowhere, whole, atol=1e-5, rtol=1e-5)
