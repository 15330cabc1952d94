"""Exact inference equals the sum over all concepts and all ways through the states."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.synthetic import markov
from course_lib.synthetic.markov import Mixture


def random_mixture(K, H, V, seed):
    generator = torch.Generator().manual_seed(seed)
    tables = [
        markov.dirichlet(1.0, *shape, generator=generator) for shape in ((K,), (K, H), (K, H, H), (K, H, V))
    ]
    return Mixture(*tables)


def joint(mixture, tokens):
    """(K,) p(concept, tokens), by enumeration of every path."""
    K, H, _ = mixture.emission.shape
    total = torch.zeros(K, dtype=torch.float64)
    for k in range(K):
        for path in itertools.product(range(H), repeat=len(tokens)):
            p = mixture.prior[k].clone()
            for t, (state, token) in enumerate(zip(path, tokens, strict=True)):
                p *= mixture.transition[k, path[t - 1], state] if t else mixture.start[k, state]
                p *= mixture.emission[k, state, token]
            total[k] += p
    return total


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000), st.data())
def test_inference_equals_enumeration(K, H, V, seed, data):
    mixture = random_mixture(K, H, V, seed)
    tokens = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=4))
    found = markov.infer(mixture, torch.tensor([tokens]))
    torch.testing.assert_close(found.posterior[0, 0], mixture.prior)
    for t in range(len(tokens) + 1):
        seen = joint(mixture, tokens[:t])
        following = torch.stack([joint(mixture, [*tokens[:t], v]) for v in range(V)], -1)  # (K, V)
        torch.testing.assert_close(found.posterior[0, t], seen / seen.sum())
        torch.testing.assert_close(found.by_concept[0, t], following / seen[:, None])
        torch.testing.assert_close(found.predictive[0, t], following.sum(0) / seen.sum())


def test_documents_do_not_influence_each_other():
    mixture = random_mixture(3, 4, 5, 0)
    tokens, _ = markov.sample(mixture, 6, 9, torch.Generator().manual_seed(0))
    both = markov.infer(mixture, tokens)
    alone = markov.infer(mixture, tokens[3:4])
    torch.testing.assert_close(both.predictive[3:4], alone.predictive)


def test_long_documents_do_not_underflow():
    mixture = markov.hidden_markov(K=3, V=4, seed=0)
    tokens, _ = markov.sample(mixture, 4, 900, torch.Generator().manual_seed(0))
    found = markov.infer(mixture, tokens)
    torch.testing.assert_close(found.predictive.sum(-1), torch.ones(4, 901, dtype=torch.float64))
    assert found.posterior[:, -1].max(-1).values.min() > 0.999


def test_a_concept_that_cannot_write_a_document_is_ruled_out():
    certain = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])  # one state; concept 0 only writes token 0
    one = torch.ones(2, 1)
    mixture = Mixture(torch.tensor([0.9, 0.1]), one, one[..., None], certain)
    found = markov.infer(mixture, torch.tensor([[0, 1, 0]]))
    assert found.posterior[0, -1].tolist() == [0, 1]
    assert torch.isfinite(found.predictive).all()


def test_tokens_outside_are_named():
    with pytest.raises(ValueError, match="tokens: expected 0 to 4, got 0 to 5"):
        markov.infer(random_mixture(2, 2, 5, 0), torch.tensor([[0, 5]]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior", torch.tensor([0.5, 0.6])),
        ("start", torch.tensor([[2.0, -1.0], [0.5, 0.5]])),
        ("transition", torch.full((2, 3, 3), 1 / 3)),
    ],
)
def test_tables_that_are_no_probabilities_are_named(name, value):
    whole = {
        "prior": torch.full((2,), 0.5),
        "start": torch.full((2, 2), 0.5),
        "transition": torch.full((2, 2, 2), 0.5),
        "emission": torch.full((2, 2, 3), 1 / 3),
    }
    Mixture(**whole)
    with pytest.raises(ValueError, match=rf"{name}: expected \(2"):
        Mixture(**whole | {name: value})


def test_sampled_documents_have_the_frequencies_of_the_mixture():
    mixture = random_mixture(2, 3, 4, 1)
    tokens, concept = markov.sample(mixture, 40_000, 3, torch.Generator().manual_seed(0))
    assert (concept.double().mean() - mixture.prior[1]).abs() < 0.01
    for k in range(2):
        state = mixture.start[k]
        for t in range(3):
            expected = state @ mixture.emission[k]
            found = tokens[concept == k, t].bincount(minlength=4).double() / (concept == k).sum()
            torch.testing.assert_close(found, expected, atol=0.015, rtol=0)
            state = state @ mixture.transition[k]
    # and pairs of tokens, which tell a chain from independent draws
    pair = torch.einsum(
        "h,hv,hj,jw->vw", mixture.start[0], mixture.emission[0], mixture.transition[0], mixture.emission[0]
    )
    found = (tokens[concept == 0, 0] * 4 + tokens[concept == 0, 1]).bincount(minlength=16).double()
    torch.testing.assert_close(found / found.sum(), pair.flatten(), atol=0.015, rtol=0)


def test_only_keeps_one_concept():
    mixture = random_mixture(3, 2, 4, 2)
    _, concept = markov.sample(mixture.only(1), 5, 3, torch.Generator().manual_seed(0))
    assert concept.tolist() == [0] * 5
    tokens = torch.tensor([[0, 1, 2]])
    alone, among = markov.infer(mixture.only(1), tokens), markov.infer(mixture, tokens)
    torch.testing.assert_close(alone.by_concept[:, :, 0], among.by_concept[:, :, 1])


def test_the_concepts_of_hidden_markov_differ_in_transitions_only():
    mixture = markov.hidden_markov(K=3, V=4, seed=0)
    assert mixture.emission.shape == (3, 9, 5)
    assert (mixture.emission == mixture.emission[0]).all()
    assert (mixture.start == mixture.start[0]).all()
    assert (mixture.transition[:, :8, 8] == 0.15).all()
    assert (mixture.transition[0, :8] - mixture.transition[1, :8]).abs().sum() > 1
    assert mixture.emission[0, 8].tolist() == [0, 0, 0, 0, 1]
    for h in range(8):
        assert mixture.emission[0, h].argmax() == h // 2
    other = markov.hidden_markov(K=3, V=4, seed=1)
    assert not torch.equal(mixture.transition, other.transition)


def test_a_prompt_is_independent_examples_with_delimiters_between():
    mixture = markov.hidden_markov(K=3, V=4, seed=0)
    concept = torch.arange(3).repeat(200)
    of = markov.examples(mixture, concept, 4, 5, torch.Generator().manual_seed(0))
    assert of.shape == (600, 4, 5)
    assert of.max() < 4
    first = of[:, :, 0].flatten().bincount(minlength=4) / 2400
    torch.testing.assert_close(first, torch.full((4,), 0.25), atol=0.04, rtol=0)
    text = markov.prompt(of, 4)
    assert text.shape == (600, 4 * 6 - 1)
    assert (text[:, 5::6] == 4).all()
    assert (text[:, :5] == of[:, 0]).all()
    assert (text[:, 18:] == of[:, 3]).all()
    assert torch.equal(markov.prompt(of, None), of.flatten(1))
    # given delimiters, exact Bayes knows the examples for what they are
    assert (markov.infer(mixture, text).posterior[:, -1].argmax(-1) == concept).double().mean() > 0.95


def test_order_of_examples_makes_no_difference_to_bayes():
    mixture = markov.hidden_markov(K=3, V=4, seed=0)
    of = markov.examples(mixture, torch.tensor([0, 1]), 4, 3, torch.Generator().manual_seed(0))
    there, back = (
        markov.infer(mixture, markov.prompt(x, 4)).posterior[:, -1] for x in (of, of[:, [2, 0, 1, 3]])
    )
    torch.testing.assert_close(there, back)


def test_a_reader_that_forgets_sees_the_last_tokens_only():
    mixture = random_mixture(2, 3, 4, 5)
    tokens, _ = markov.sample(mixture, 6, 9, torch.Generator().manual_seed(0))
    exact = markov.infer(mixture, tokens).predictive[:, 1:]
    torch.testing.assert_close(markov.forgetful(mixture, tokens, 9), exact)
    three = markov.forgetful(mixture, tokens, 3)
    assert three.shape == exact.shape
    torch.testing.assert_close(three[:, :3], exact[:, :3])
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 4
    torch.testing.assert_close(markov.forgetful(mixture, changed, 3)[:, 5:], three[:, 5:])
    assert (markov.forgetful(mixture, changed, 3)[:, 4] - three[:, 4]).abs().max() > 1e-3
    anywhere = Mixture(
        mixture.prior, torch.full_like(mixture.start, 1 / 3), mixture.transition, mixture.emission
    )
    alone = markov.infer(anywhere, tokens[:, 4:7]).predictive[:, -1]
    torch.testing.assert_close(three[:, 6], alone)


def test_a_window_that_opens_on_a_delimiter_is_possible():
    mixture = markov.hidden_markov(K=3, V=4, seed=0)
    tokens = torch.tensor([[0, 1, 4, 2, 3, 4, 1]])
    assert torch.isfinite(markov.forgetful(mixture, tokens, 2)).all()


def test_kl_is_zero_for_equals_and_ignores_what_never_happens():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert markov.kl(p, p).tolist() == [0, 0]
    q = torch.tensor([0.25, 0.25, 0.5])
    torch.testing.assert_close(markov.kl(p, q), torch.tensor([2.0, 4.0]).log())


def test_dirichlet_is_flat_or_peaked():
    generator = torch.Generator().manual_seed(0)
    flat, peaked = (markov.dirichlet(c, 100, 6, generator=generator) for c in (100.0, 0.05))
    for p in (flat, peaked):
        torch.testing.assert_close(p.sum(-1), torch.ones(100, dtype=torch.float64))
        assert (p > 0).all()
    assert flat.max() < 0.4
    assert peaked.max(-1).values.mean() > 0.8


# Every document its own chain


@given(st.lists(st.integers(0, 2), min_size=1, max_size=15))
def test_bigram_statistics_are_those_a_loop_counts(sequence):
    p = markov.bigrams(torch.tensor([sequence]), V=3, concentration=0.5)[0]
    for t, token in enumerate(sequence):
        followed = [b for a, b in itertools.pairwise(sequence[: t + 1]) if a == token]
        counts = torch.tensor([followed.count(v) + 0.5 for v in range(3)], dtype=torch.float64)
        torch.testing.assert_close(p[t], counts / counts.sum())


def test_bigram_statistics_are_calibrated_on_chains_of_their_own():
    """The exact prediction is right as often as it says, whatever it says."""
    tokens = markov.own_chains()(4000, torch.Generator().manual_seed(0))
    p, truth = markov.bigrams(tokens)[:, :-1, 0], (tokens[:, 1:] == 0).double()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        there = (p >= low) & (p < low + 0.2)
        assert truth[there].mean().item() == pytest.approx(p[there].mean().item(), abs=0.01)


def test_every_chain_is_another():
    tokens = markov.own_chains(V=3, length=400)(2, torch.Generator().manual_seed(0))
    assert tokens.shape == (2, 400)
    assert set(tokens.flatten().tolist()) == {0, 1, 2}
    last = markov.bigrams(tokens, V=3)[:, -1]
    assert (last[0] - last[1]).abs().max() > 0.05
    again = markov.own_chains(V=3, length=400)(2, torch.Generator().manual_seed(0))
    assert (tokens == again).all()
