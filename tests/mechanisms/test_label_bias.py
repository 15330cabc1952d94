"""Demonstrations that are unequal or in order, and attention made equal again."""

import pytest
import torch
from letters import laid_out

from course_lib import fewshot, lm
from course_lib.data import texts
from course_lib.fewshot import TWO_LABELS, Case
from course_lib.mechanisms import label_bias

CASES = [
    Case([("ab", "no"), ("cd", "yes"), ("ef", "no"), ("gh", "no")], [("ij", "yes"), ("kl", "no")]),
    Case([("mn", "yes"), ("op", "no"), ("qr", "yes"), ("st", "yes")], [("uv", "no"), ("wx", "yes")]),
]


def given(model):
    return laid_out(model, CASES)


def two_labels(name):
    return fewshot.short_texts(name).only(TWO_LABELS[name])


@pytest.mark.parametrize("name", TWO_LABELS)
@pytest.mark.parametrize("versions", [("many first", "many second"), ("first last", "second last")])
def test_opposite_versions_differ_in_their_labels_only(name, versions):
    one, other = (label_bias.unequal(two_labels(name), version, 3, 4, seed=5) for version in versions)
    first, second = TWO_LABELS[name]
    swap = {first: second, second: first}
    for a, b in zip(one, other, strict=True):
        assert a.queries == b.queries
        assert [y for _, y in a.queries] == [first] * 2 + [second] * 2
        labels = [y for _, y in a.demonstrations]
        assert [swap[y] for y in labels] == [y for _, y in b.demonstrations]
        assert not {x for x, _ in a.queries} & {x for x, _ in a.demonstrations}
        if "last" in versions[0]:
            assert labels == [second] * 4 + [first] * 4
            assert {x for x, _ in a.demonstrations} == {x for x, _ in b.demonstrations}
        else:
            assert (labels.count(first), labels.count(second)) == (6, 2)


@pytest.mark.parametrize("name", TWO_LABELS)
def test_queries_are_not_from_the_pool(name):
    corpus = texts.load(name)
    pool = {" ".join(e.text.split()[:20]) for e in corpus.train}
    for case in label_bias.unequal(two_labels(name), "mixed", 3, 4):
        assert all(x in pool for x, _ in case.demonstrations)
        assert not any(x in pool for x, _ in case.queries)


def test_mixed_versions_are_balanced_and_in_another_order():
    task = two_labels("topic")
    labels = [[y for _, y in case.demonstrations] for case in label_bias.unequal(task, "mixed", 4, 2)]
    assert all(row.count("sports") == 4 for row in labels)
    assert len(set(map(tuple, labels))) > 1
    assert label_bias.unequal(task, "mixed", 1, 2, seed=1) != label_bias.unequal(task, "mixed", 1, 2)


def test_more_than_two_labels_are_refused():
    with pytest.raises(ValueError, match="task 'topic': expected two labels, got business, entertainment"):
        label_bias.unequal(fewshot.short_texts("topic"), "mixed", 1)


def test_factors_by_number_give_each_label_the_same(llama):
    factors = label_bias.by_number(given(llama))
    torch.testing.assert_close(factors[0], torch.tensor([2 / 3, 2.0, 2 / 3, 2 / 3]))
    even = torch.full((4, 4), 0.25)
    shares = fewshot.attention_by_label(even * factors, given(llama).shown, 2)
    torch.testing.assert_close(shares, torch.full((4, 2), 0.5))


def test_factors_by_place_undo_what_is_usual(llama):
    usual = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    factors = label_bias.by_place(given(llama), usual)
    assert factors.shape == (4, 2, 3, 4)
    torch.testing.assert_close(
        usual * factors, usual.mean(-1, keepdim=True).expand_as(usual).expand(4, -1, -1, -1)
    )


def test_factors_by_share_give_each_label_the_same_over_a_case(llama):
    prompts = given(llama)
    seen = fewshot.label_attention(llama, prompts)
    weighted = seen.attention * label_bias.by_share(prompts, seen)
    own = fewshot.attention_by_label(weighted, prompts.shown, 2)
    shares = prompts.per_case(own)
    torch.testing.assert_close(shares[..., 0], shares[..., 1])
    torch.testing.assert_close(shares.sum(-1), prompts.per_case(seen.attention.sum(-1)))
    assert (own[..., 0] - own[..., 1]).abs().max() > 1e-5  # of each query alone they differ


def test_weighed_attention(llama):
    prompts = given(llama)
    factors = torch.rand(4, llama.n_layers, llama.n_heads, 4)
    found = label_bias.weighed(prompts, [(1, 2), (3, 0)], factors)
    assert [(list(w.layers), list(w.heads)) for w in found] == [([1], [2]), ([3], [0])]
    where = prompts.layouts[2]
    assert [link[:2] for link in found[1].links[2]] == [(where.last, y) for y in where.labels]
    torch.testing.assert_close(torch.tensor([link[2] for link in found[1].links[2]]), factors[2, 3, 0])
    torch.testing.assert_close(torch.tensor([link[2] for link in found[0].links[2]]), factors[2, 1, 2])
    alike = label_bias.weighed(prompts, [(1, 2), (3, 0)], factors[:, 0, 0])
    assert alike[0].links == alike[1].links

    def scores(weigh=()):
        return fewshot.label_scores(llama, prompts.prompts, prompts.labels, weigh=weigh)

    ones = label_bias.weighed(prompts, [(1, 2)], torch.ones(4, 4))
    torch.testing.assert_close(scores(ones), scores())  # factors of one change nothing, others do
    assert (scores(found) - scores()).abs().max() > 1e-5


def test_tilt_and_share_of_the_second_label(llama):
    prompts = given(llama)
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    torch.testing.assert_close(label_bias.tilt_to_second(prompts, logits - 7), torch.tensor([-0.5, 2.0]))
    attention = torch.zeros(4, llama.n_layers, llama.n_heads, 4)
    attention[:, 1, 0] = torch.tensor([0.1, 0.3, 0.0, 0.0])  # no yes … ; yes no …
    attention[:, 2, 3] = torch.tensor([0.2, 0.0, 0.2, 0.0])  # no … no ; yes … yes
    seen = fewshot.LabelAttention(attention, attention[..., 0], attention)
    shares = label_bias.share_of_second(prompts, seen, [(1, 0), (2, 3)])
    torch.testing.assert_close(shares, torch.tensor([(0.75 + 0.0) / 2, (0.25 + 1.0) / 2]))


def test_the_engine_and_the_factors_agree(llama):
    """Weighed attention of the first layer is the attention times the factors, made to sum to one."""
    prompts = given(llama)
    factors = label_bias.by_number(prompts)
    where = prompts.layouts[0]
    before = lm.forward(llama, [where.tokens], lm.Read(attention=[0])).attention[0, 0, 0, 1]
    weighted = before.clone()
    weighted[where.labels] *= factors[0]
    weighted /= weighted.sum()
    values = lm.values(llama, where.tokens, [0])[0, 1]
    weigh = [lm.Weigh([0], label_bias.weighed(prompts, [(0, 1)], factors)[0].links[:1], [1])]
    found = lm.forward(llama, [where.tokens], lm.Read(heads=[0]), weigh=weigh).heads[0, 0, 0, 1]
    torch.testing.assert_close(found, weighted @ values, atol=1e-5, rtol=1e-4)
