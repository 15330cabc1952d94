"""Latent concepts: the posterior that a predictive implies, answers, and a reader with two hypotheses."""

import math
import random

import pytest
import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot import Format, score
from course_lib.inference import concepts
from course_lib.scratch.transformer import Config, Transformer
from course_lib.synthetic import markov

CHAINS = markov.markov_chains(K=3, V=6, seed=1)


@pytest.fixture(scope="module")
def model():
    return lm.load("smollm2-135m")


def test_the_implied_posterior_of_bayes_is_its_posterior():
    tokens, _ = markov.sample(CHAINS, 20, 12, torch.Generator().manual_seed(0))
    exact = markov.infer(CHAINS, tokens)
    implied = concepts.implied_posterior(exact.predictive[:, 1:], exact.by_concept[:, 1:])
    torch.testing.assert_close(implied, exact.posterior[:, 1:], atol=1e-6, rtol=0)


def test_the_implied_posterior_of_one_concept_is_certainty():
    by_concept = markov.dirichlet(1.0, 5, 3, 6, generator=torch.Generator().manual_seed(0))
    implied = concepts.implied_posterior(by_concept[:, 1], by_concept)
    torch.testing.assert_close(implied, torch.eye(3).double()[1].expand(5, 3), atol=1e-6, rtol=0)


def test_predict_gives_probabilities_of_what_follows():
    torch.manual_seed(0)
    small = Transformer(Config(vocab=6, length=8, layers=1, d=16, rotary=True))
    tokens = torch.randint(6, (4, 8), generator=torch.Generator().manual_seed(0))
    p = concepts.predict(small, tokens)
    assert p.dtype == torch.float64
    torch.testing.assert_close(p, small(tokens).softmax(-1).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(concepts.predict(small, tokens[:, :3]), p[:, :3], atol=1e-6, rtol=0)


@pytest.mark.parametrize("delimiter", [8, None])
def test_answers_are_the_last_tokens_of_examples(delimiter):
    of = torch.randint(8, (5, 4, 3), generator=torch.Generator().manual_seed(0))
    tokens = markov.prompt(of, delimiter)
    knows = torch.nn.functional.one_hot(tokens.roll(-1, 1), 9).double()  # predicts every next token
    gap = 0 if delimiter is None else 1
    assert concepts.answers(knows, tokens, 3, gap).tolist() == [[1.0] * 4] * 5
    late = torch.nn.functional.one_hot(tokens, 9).double()  # repeats the token that was there
    expected = (of[:, :, 1] == of[:, :, 2]).double()
    assert torch.equal(concepts.answers(late, tokens, 3, gap), expected)


def test_the_delimiter_is_never_the_answer():
    tokens = torch.tensor([[1, 2, 3]])
    p = torch.zeros(1, 3, 9, dtype=torch.float64)
    p[..., 8], p[..., 3] = 0.9, 0.1
    assert concepts.answers(p, tokens, 3).tolist() == [[1.0]]


def test_evaluation_is_zero_for_exact_bayes(monkeypatch):
    def exact(_, tokens):
        return markov.infer(concepts.GINC, tokens).predictive[:, 1:]

    monkeypatch.setattr(concepts, "predict", exact)
    assert concepts.evaluate(None, concepts.GINC, n=5, length=12)["KL"] == pytest.approx(0, abs=1e-12)


# Two tasks


def test_letters_fit_both_tasks_if_ambiguous():
    generator = random.Random(0)
    for _ in range(50):
        item = concepts.letters(generator, False)
        drawn = item.x.split(",")
        assert 3 <= len(drawn) == len(set(drawn)) <= 5
        assert (item.a, item.b) == (drawn[0], drawn[-1])
        both = concepts.letters(generator, True)
        assert both.a == both.b == both.x[0] == both.x[-1]


def test_sentences_have_a_sentiment_and_a_topic():
    item = concepts.sentence(random.Random(0), False)
    known = {s.text: s for s in texts.two_concepts()}[item.x]
    assert (item.a.lower(), item.b.lower()) == (known.sentiment, known.topic)
    with pytest.raises(ValueError, match="ambiguous=True: a sentiment is never a topic"):
        concepts.sentence(random.Random(0), True)


def test_cases_follow_their_pattern():
    for case in concepts.draw_cases(concepts.letters, "A?Bx", n=30, n_queries=2, seed=0):
        (x1, y1), (x2, y2), (x3, y3), (x4, _) = case.demonstrations
        assert y1 == x1[0] != x1[-1]
        assert y2 == x2[0] == x2[-1]
        assert y3 == x3[-1] != x3[0]
        assert len({x1, x2, x3, x4, *(x for x, _ in case.queries)}) == 6
        assert [x for x, _ in case.queries[::2]] == [x for x, _ in case.queries[1::2]]
        assert all(
            (a, b) == (x[0], x[-1])
            for (x, a), (_, b) in zip(case.queries[::2], case.queries[1::2], strict=True)
        )
    answers = [case.demonstrations[3] for case in concepts.draw_cases(concepts.letters, "A?Bx", 99, 2, 0)]
    assert sum(y == x[0] for x, y in answers) < 20


def test_patterns_of_one_length_share_their_queries():
    a, b = (concepts.draw_cases(concepts.sentence, p, 3, 2, seed=4) for p in ("AAAB", "BBBA"))
    assert [case.queries for case in a] == [case.queries for case in b]
    assert [x for x, _ in a[0].demonstrations] == [x for x, _ in b[0].demonstrations]
    assert a[0].demonstrations != b[0].demonstrations


def test_an_unknown_pattern_is_named():
    with pytest.raises(ValueError, match="pattern='AC': expected letters A, B, \\? and x"):
        concepts.draw_cases(concepts.letters, "AC", 1, 1, 0)


def test_answer_log_probs_are_the_scores_of_the_answers(model):
    format = Format()
    cases = concepts.draw_cases(concepts.letters, "AB", n=2, n_queries=2, seed=0)
    found = concepts.answer_log_probs(model, format, cases)
    assert found.shape == (2, 3, 2, 2)
    for r, n, q in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
        for i, (x, y) in enumerate(cases[r].queries[2 * q : 2 * q + 2]):
            prompt, answer = format.tokens(model, cases[r].demonstrations[:n], x, y)
            expected = score(model, [prompt], [[answer]]).log_p
            torch.testing.assert_close(found[r, n, q, i], expected[0, 0], atol=1e-3, rtol=0)
    odds = concepts.log_odds(found)
    assert odds.shape == (2, 3)
    torch.testing.assert_close(odds[1, 2], (found[1, 2, :, 0] - found[1, 2, :, 1]).mean())


def test_two_hypotheses_by_hand(model):
    format = Format()
    cases = concepts.draw_cases(concepts.letters, "AB", n=2, n_queries=1, seed=0)
    clear = [concepts.draw_cases(concepts.letters, t * 3, 1, 1, seed=7)[0].demonstrations for t in "AB"]
    found = concepts.two_hypotheses(model, format, cases, clear)
    assert found.shape == (2, 3, 1, 2)

    def p(task, x, y):
        prompt, answer = format.tokens(model, clear[task], x, y)
        return math.exp(score(model, [prompt], [[answer]]).log_p.item())

    case, weights = cases[1], [0.5, 0.5]
    for n in range(3):
        for i, (x, y) in enumerate(case.queries):
            by_hand = sum(w * p(task, x, y) for task, w in enumerate(weights)) / sum(weights)
            assert found[1, n, 0, i].exp().item() == pytest.approx(by_hand, rel=2e-3)
        if n < 2:
            weights = [w * p(task, *case.demonstrations[n]) for task, w in enumerate(weights)]


def test_what_is_to_be_avoided_is_not_drawn():
    first = concepts.draw_cases(concepts.sentence, "AAAAAA", 3, 2, seed=0)
    avoid = {x for case in first for x, _ in case.demonstrations}
    later = concepts.draw_cases(concepts.sentence, "AB", 20, 2, seed=0, avoid=avoid)
    drawn = {x for case in later for x, _ in case.demonstrations} | {
        x for case in later for x, _ in case.queries
    }
    assert len(drawn) > 20
    assert drawn.isdisjoint(avoid)


def test_clear_demonstrations_show_both_tasks_on_the_same_queries():
    a, b = concepts.clear_demonstrations(concepts.letters, seed=3)
    assert len(a) == 6
    assert [x for x, _ in a] == [x for x, _ in b]
    assert all(y == x[0] for x, y in a)
    assert all(y == x[-1] for x, y in b)


def test_halves_are_exchanged():
    cases = concepts.draw_cases(concepts.letters, "AAAB", 3, 2, seed=0)
    for case, other in zip(cases, concepts.halves_exchanged(cases), strict=True):
        assert other.demonstrations == [*case.demonstrations[2:], *case.demonstrations[:2]]
        assert other.queries == case.queries
