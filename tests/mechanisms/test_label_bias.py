"""Demonstrations that are unequal or in order, and attention made equal again."""

import pytest
import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot.demonstrations import Case, Format, Setting
from course_lib.mechanisms import label_bias
from course_lib.mechanisms import label_heads as heads
from course_lib.mechanisms import label_routes as locate

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
CASES = [
    Case([("ab", "no"), ("cd", "yes"), ("ef", "no"), ("gh", "no")], [("ij", "yes"), ("kl", "no")]),
    Case([("mn", "yes"), ("op", "no"), ("qr", "yes"), ("st", "yes")], [("uv", "no"), ("wx", "yes")]),
]


def asked(model):
    return locate.prompts(model, [Setting(FORMAT, ["no", "yes"], case) for case in CASES])


@pytest.mark.parametrize("task", label_bias.PAIRS)
@pytest.mark.parametrize("versions", [("many first", "many second"), ("first last", "second last")])
def test_opposite_versions_differ_in_their_labels_only(task, versions):
    one, other = (label_bias.unequal(task, version, 3, 4, seed=5) for version in versions)
    first, second = label_bias.PAIRS[task]
    swap = {first: second, second: first}
    for a, b in zip(one, other, strict=True):
        assert a.case.queries == b.case.queries
        assert [y for _, y in a.case.queries] == [first] * 2 + [second] * 2
        labels = [y for _, y in a.case.demonstrations]
        assert [swap[y] for y in labels] == [y for _, y in b.case.demonstrations]
        assert not {x for x, _ in a.case.queries} & {x for x, _ in a.case.demonstrations}
        if "last" in versions[0]:
            assert labels == [second] * 4 + [first] * 4
            assert {x for x, _ in a.case.demonstrations} == {x for x, _ in b.case.demonstrations}
        else:
            assert (labels.count(first), labels.count(second)) == (6, 2)


@pytest.mark.parametrize("task", label_bias.PAIRS)
def test_queries_are_not_from_the_pool(task):
    corpus = texts.load(task)
    pool = {" ".join(e.text.split()[:20]) for e in corpus.train}
    for setting in label_bias.unequal(task, "mixed", 3, 4):
        assert all(x in pool for x, _ in setting.case.demonstrations)
        assert not any(x in pool for x, _ in setting.case.queries)


def test_mixed_versions_are_balanced_and_in_another_order():
    labels = [[y for _, y in s.case.demonstrations] for s in label_bias.unequal("topic", "mixed", 4, 2)]
    assert all(row.count("sports") == 4 for row in labels)
    assert len(set(map(tuple, labels))) > 1
    assert label_bias.unequal("topic", "mixed", 1, 2, seed=1) != label_bias.unequal("topic", "mixed", 1, 2)


def test_factors_by_number_give_each_label_the_same(llama):
    here = asked(llama)
    factors = label_bias.by_number(here)
    torch.testing.assert_close(factors[0], torch.tensor([2 / 3, 2.0, 2 / 3, 2 / 3]))
    even = torch.full((4, 4), 0.25)
    torch.testing.assert_close(heads.vote(even * factors, here.shown, 2), torch.full((4, 2), 0.5))


def test_factors_by_place_undo_what_is_usual(llama):
    usual = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    factors = label_bias.by_place(asked(llama), usual)
    assert factors.shape == (4, 2, 3, 4)
    torch.testing.assert_close(
        usual * factors, usual.mean(-1, keepdim=True).expand_as(usual).expand(4, -1, -1, -1)
    )


def test_factors_by_share_give_each_label_the_same_over_a_case(llama):
    here = asked(llama)
    seen = heads.at_labels(llama, here.where, here.labels)
    weighted = seen.attention * label_bias.by_share(here, seen)
    votes = here.per_case(heads.vote(weighted, here.shown, 2))
    torch.testing.assert_close(votes[..., 0], votes[..., 1])
    torch.testing.assert_close(votes.sum(-1), here.per_case(seen.attention.sum(-1)))
    own = heads.vote(weighted, here.shown, 2)
    assert (own[..., 0] - own[..., 1]).abs().max() > 1e-5  # of each query alone they differ


def test_weighed_attention(llama):
    here = asked(llama)
    factors = torch.rand(4, llama.n_layers, llama.n_heads, 4)
    found = label_bias.weighed(here, [(1, 2), (3, 0)], factors)
    assert [(list(w.layers), list(w.heads)) for w in found] == [([1], [2]), ([3], [0])]
    where = here.where[2]
    assert [link[:2] for link in found[1].links[2]] == [(where.last, y) for y in where.labels]
    torch.testing.assert_close(torch.tensor([link[2] for link in found[1].links[2]]), factors[2, 3, 0])
    torch.testing.assert_close(torch.tensor([link[2] for link in found[0].links[2]]), factors[2, 1, 2])
    alike = label_bias.weighed(here, [(1, 2), (3, 0)], factors[:, 0, 0])
    assert alike[0].links == alike[1].links
    # factors of one change nothing, others do
    plain = heads.ask(llama, here.where, here.labels)
    ones = heads.ask(
        llama, here.where, here.labels, weigh=label_bias.weighed(here, [(1, 2)], torch.ones(4, 4))
    )
    torch.testing.assert_close(ones.logits, plain.logits)
    other = heads.ask(llama, here.where, here.labels, weigh=found)
    assert (other.logits - plain.logits).abs().max() > 1e-5


def test_tilt_and_share_of_the_second_label(llama):
    here = asked(llama)
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    torch.testing.assert_close(
        label_bias.tilt(here, heads.Answers(logits, logits)), torch.tensor([-0.5, 2.0])
    )
    attention = torch.zeros(4, llama.n_layers, llama.n_heads, 4)
    attention[:, 1, 0] = torch.tensor([0.1, 0.3, 0.0, 0.0])  # no yes … ; yes no …
    attention[:, 2, 3] = torch.tensor([0.2, 0.0, 0.2, 0.0])  # no … no ; yes … yes
    seen = heads.Labels(attention, attention[..., 0], attention)
    shares = label_bias.share(here, seen, [(1, 0), (2, 3)])
    torch.testing.assert_close(shares, torch.tensor([(0.75 + 0.0) / 2, (0.25 + 1.0) / 2]))


def test_the_engine_and_the_factors_agree(llama):
    """Weighed attention of the first layer is the attention times the factors, made to sum to one."""
    here = asked(llama)
    factors = label_bias.by_number(here)
    where = here.where[0]
    before = lm.forward(llama, [where.tokens], lm.Read(attention=[0])).attention[0, 0, 0, 1]
    weighted = before.clone()
    weighted[where.labels] *= factors[0]
    weighted /= weighted.sum()
    values = lm.values(llama, where.tokens, [0])[0, 1]
    weigh = [lm.Weigh([0], label_bias.weighed(here, [(0, 1)], factors)[0].links[:1], [1])]
    found = lm.forward(llama, [where.tokens], lm.Read(heads=[0]), weigh=weigh).heads[0, 0, 0, 1]
    torch.testing.assert_close(found, weighted @ values, atol=1e-5, rtol=1e-4)
