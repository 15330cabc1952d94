"""What each head does for the answer, and what its scores agree with."""

import pytest
import torch
from letters import CASES, TASK, laid_out

from course_lib import fewshot, lm
from course_lib.fewshot import Case
from course_lib.mechanisms import label_heads as heads


def first_case(model):
    return laid_out(model, CASES[:1])


def scores(model, given, **actions):
    return fewshot.label_scores(model, given.prompts, given.labels, **actions)


def test_without_its_direct_part_a_head_of_the_last_layer_is_nearly_gone(llama):
    """Behind a head of the last layer are its own feed-forward block and the last norm's scale, kept here."""
    given = first_case(llama)
    found = heads.without_direct_part(llama, given)
    assert found.shape == (2, llama.n_layers, llama.n_heads, 2)
    layer, head = llama.n_layers - 1, 2
    out = lm.forward(llama, given.prompts, lm.Read(residual=[layer], heads=[layer]))
    residual = out.residual[:, 0, 0] - out.heads[:, 0, 0, head] @ lm.output_projections(llama)[layer, head]
    # the last norm divides by the scale that it had
    eps = llama.model.config.rms_norm_eps
    scale = (out.residual[:, 0, 0].square().mean(-1, keepdim=True) + eps).rsqrt()
    log_p = ((residual * scale) @ lm.unembedding(llama).T).log_softmax(-1)[:, given.labels]
    torch.testing.assert_close(found[:, layer, head], log_p, atol=1e-4, rtol=1e-3)


def test_every_head_of_a_random_model_has_a_part(tiny):
    if "gemma" in tiny.name:
        pytest.skip("a norm stands between a head's output and the residual stream")
    given = first_case(tiny)
    whole, found = scores(tiny, given), heads.without_direct_part(tiny, given)
    assert (found - whole[:, None, None]).abs().amax((0, 3)).min() > 1e-6
    shares = heads.head_effects(whole, found, torch.tensor([0, 1]))
    torch.testing.assert_close(shares[1, 1, 3], whole[1, 1] - found[1, 1, 3, 1])


def test_the_effect_of_a_head():
    whole = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]])
    without = torch.tensor(
        [[[[-1.5, -1.0], [-1.0, -9.0]]], [[[-7.0, -2.0], [-8.0, 0.0]]]]
    )  # (2, 1, 2 heads, 2)
    effects = heads.head_effects(whole, without, torch.tensor([0, 1]))
    torch.testing.assert_close(effects, torch.tensor([[[0.5, 0.0]], [[1.5, -0.5]]]))


def test_heads_one_by_one_are_heads_alone(tiny):
    given = first_case(tiny)
    values = torch.randn(lm.head_means(tiny, given.prompts).shape)
    for instead in (None, values):
        found = heads.without_head(tiny, given.prompts, given.labels, instead)
        assert found.shape == (2, tiny.n_layers, tiny.n_heads, 2)
        for layer, head in ((0, 3), (3, 1)):
            value = 0.0 if instead is None else instead[layer, head]
            alone = scores(tiny, given, write=[lm.Write(layer, value, head=head)])
            torch.testing.assert_close(found[:, layer, head], alone, atol=1e-4, rtol=1e-4)


def test_measures_of_heads(llama):
    given = laid_out(llama)
    found = heads.head_measures(llama, given)
    shape = llama.n_layers, llama.n_heads
    assert {name: x.shape for name, x in found._asdict().items()} == dict.fromkeys(found._fields, shape)
    layer, head = 2, 1
    gone = scores(llama, given, write=[lm.Write(layer, 0.0, head=head)])
    lost = (scores(llama, given) - gone).gather(1, given.right[:, None]).mean()
    assert found.effect[layer, head].item() == pytest.approx(lost.item(), abs=1e-5)
    seen = fewshot.label_attention(llama, given)
    own, raised = [], 0.0
    for i, shown in enumerate(given.shown.tolist()):
        for j, label in enumerate(shown):
            written = seen.written[i, layer, head, j]
            own.append(float(written.argmax() == label))
            raised += (seen.attention[i, layer, head, j] * written[label]).item()
    assert found.own[layer, head].item() == pytest.approx(sum(own) / len(own))
    assert found.raised[layer, head].item() == pytest.approx(raised / 4, abs=1e-6)
    assert found.attention[layer, head].item() == pytest.approx(
        seen.attention[:, layer, head].sum(-1).mean().item()
    )


def test_what_heads_carry_into_prompts_without_demonstrations(llama):
    given = laid_out(llama)
    read = lm.Read(heads=range(llama.n_layers))
    means = lm.forward(llama, given.prompts, read).heads[:, :, 0].mean(0)
    bare = [TASK.format.tokens(llama, [], x)[0] for case in CASES for x, _ in case.queries]

    def mass(write):
        log_p = lm.forward(llama, bare, write=write).logits.log_softmax(-1)
        return log_p[:, given.labels].logsumexp(-1)

    gained = mass([lm.Write(1, means[1, 3], head=3)]) - mass([])
    assert heads.carried_log_p(llama, given)[1, 3].item() == pytest.approx(gained.mean().item(), abs=1e-5)


def test_in_context_heads_stand_high_in_both_ways():
    gain = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.0, -1.0]])
    effect = torch.tensor([[0.0, 5.0, 4.0], [9.0, -1.0, -2.0]])
    found = heads.HeadMeasures(gain, effect, gain, gain, gain, gain)
    # ranks by gain 0 1 2 / 3 4 5, by effect 3 1 2 / 0 4 5
    assert heads.in_context_heads(found, 2) == [(0, 1), (0, 2)]
    assert set(heads.in_context_heads(found, 4)) == {(0, 1), (0, 2), (0, 0), (1, 0)}
    groups = heads.head_groups(found, -gain, 1)
    assert groups == {
        "in-context": [(0, 1)],
        "induction": [(1, 2)],
        "raising": [(0, 0)],
        "lowering": [(1, 2)],
    }


# Two towers


def test_towers_know_nothing_of_each_other(tiny):
    """A query and a demonstration score the same, whatever other queries and demonstrations there are."""
    pairs = [("ab", "no"), ("cd", "yes"), ("ef", "no")]  # equally long, so that distances are equal
    found = heads.two_tower_scores(tiny, TASK, Case(pairs, [("gh", "yes"), ("ij", "no")]))
    assert found.shape == (2, tiny.n_layers, tiny.n_heads, 3)
    less = heads.two_tower_scores(tiny, TASK, Case(pairs[1:], [("ij", "no")]))
    torch.testing.assert_close(less[0], found[1, ..., 1:], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_towers_in_the_first_layer_are_the_models_own_scores(llama):
    """In the first layer nothing has been seen yet, so that a cut changes nothing."""
    case = Case([("ab", "no")], [("gh", "yes")])
    own = fewshot.label_attention(llama, laid_out(llama, [case])).scores
    found = heads.two_tower_scores(llama, TASK, case)
    torch.testing.assert_close(found[:, 0], own[:, 0], atol=1e-4, rtol=1e-4)
    assert (found[:, 2] - own[:, 2]).abs().max() > 1e-3


def test_towers_need_a_document_start(llama):
    without = lm.LanguageModel(llama.name, llama.model, llama.tokenizer)
    without.__dict__["document_start"] = []
    with pytest.raises(ValueError, match="no document start"):
        heads.two_tower_scores(without, TASK, CASES[0])


def test_preferences_are_correlations_with_scores(llama):
    case = Case(CASES[0].demonstrations, [*CASES[0].queries, ("xyz", "yes")])
    own = fewshot.label_attention(llama, laid_out(llama, [case])).scores
    found = heads.preferences(llama, TASK, case)
    apart = heads.query_correlation(own, heads.two_tower_scores(llama, TASK, case))
    torch.testing.assert_close(found.apart, apart)
    right = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(found.right, heads.query_correlation(own, right[:, None, None]))
    assert found.alike.abs().max() <= 1
    assert not torch.allclose(found.alike, found.right)


def test_correlation_is_free_of_places_and_of_queries():
    a = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    shifted = 2 * a + torch.randn(6, 3, 1) + torch.randn(1, 3, 4)
    torch.testing.assert_close(heads.query_correlation(a, shifted), torch.ones(3))
    torch.testing.assert_close(heads.query_correlation(a, -shifted), -torch.ones(3))
    only_places = torch.tensor([1.0, 2.0, 3.0, 5.0]) + 1e-3 * torch.randn(6, 1, 4)
    assert heads.query_correlation(a, only_places).abs().max() < 0.9
