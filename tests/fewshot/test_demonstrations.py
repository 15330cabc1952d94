"""Demonstrations: prompts, scores, cases and intervals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch.testing import assert_close

from course_lib.fewshot import demonstrations as icl

PAIRS = [("hot", "cold"), ("up", "down"), ("day", "night"), ("big", "small"), ("old", "new"), ("wet", "dry")]


def test_a_prompt_has_its_parts_in_order():
    form = icl.Format("Q: {x}\nA: {y}", "\n\n", "Write the opposite.\n")
    assert form.context(PAIRS[:1], "up") == "Write the opposite.\nQ: hot\nA: cold\n\nQ: up\nA:"
    assert form.context([], "up") == "Write the opposite.\nQ: up\nA:"
    assert form.answer("down") == " down"
    assert icl.Format().context(PAIRS[:2], "big") == "hot→cold\nup→down\nbig→"
    assert icl.Format().answer("small") == "small"


@pytest.mark.parametrize("example", ["{x}→", "→{y}", "{y}←{x}", "{x}→{y}."])
def test_a_template_without_query_or_that_does_not_end_with_the_answer_is_refused(example):
    with pytest.raises(ValueError, match="expected a template"):
        icl.Format(example)


@pytest.mark.parametrize("form", [icl.Format(), icl.Format("Review: {x}\nSentiment: {y}", "\n\n")])
def test_tokens_are_those_of_the_whole_text_after_a_document_start(real, form):
    prompt, answer = form.tokens(real, PAIRS[:2], "big", "small")
    assert prompt[: len(real.document_start)] == real.document_start
    whole = real.encode(form.context(PAIRS[:2], "big") + form.answer("small"))
    assert (prompt + answer)[len(real.document_start) :] == whole
    assert real.decode(answer) == form.answer("small")


def test_an_answer_that_merges_with_the_context_is_refused(real):
    joined = icl.Format("{x}{y}")
    with pytest.raises(ValueError, match="changes the tokens"):
        joined.tokens(real, [], "hel", "lo")


def naive_score(model, prompt, answer):
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    ahead = logits[len(prompt) - 1 : -1].log_softmax(-1)
    target = torch.tensor(answer)
    return ahead.gather(1, target[:, None]).sum(), bool((ahead.argmax(-1) == target).all())


def test_scores_equal_a_forward_of_the_whole_text(llama, monkeypatch):
    monkeypatch.setattr(icl, "CONTEXTS_AT_A_TIME", 3)  # several parts
    prompts = [[1, 2, 3], [1, 2, 3], [1, 2], [5]]
    answers = [[4, 5, 6], [4, 7], [3, 4], [9]]
    first = naive_best(llama, [5], 3)
    prompts, answers = [*prompts, [5]], [*answers, first]
    log_p, greedy = icl.score(llama, prompts, answers)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected, best = naive_score(llama, prompt, answer)
        assert_close(log_p[i], expected, atol=1e-4, rtol=0)
        assert bool(greedy[i]) == best
    assert greedy[-1]
    assert not greedy[:4].any()


def test_an_answer_that_begins_wrong_and_ends_right_is_not_greedy(llama):
    wrong = (naive_best(llama, [5], 1)[0] + 1) % 200
    right_after = naive_best(llama, [5, wrong], 1)
    assert not icl.score(llama, [[5]], [[wrong, *right_after]])[1].item()


def naive_best(model, prompt, n):
    """What greedy decoding writes."""
    tokens = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("answers", [[], [[1], [2]], [[]]])
def test_every_prompt_needs_an_answer(llama, answers):
    with pytest.raises(ValueError, match="one for each prompt"):
        icl.score(llama, [[1]], answers)


@settings(deadline=None)
@given(
    shots=st.integers(0, 3), n_cases=st.integers(1, 5), n_queries=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_cases_are_reproducible_and_disjoint(shots, n_cases, n_queries, seed):
    pool, queries = PAIRS[:3], PAIRS[3:]
    cases = icl.draw(pool, queries, shots, n_cases, n_queries, seed)
    assert cases == icl.draw(pool, queries, shots, n_cases, n_queries, seed)
    assert len(cases) == n_cases
    for case in cases:
        assert len(set(case.demonstrations)) == shots
        assert len(set(case.queries)) == n_queries
        assert set(case.demonstrations) <= set(pool)
        assert set(case.queries) <= set(queries)


def test_queries_are_used_up_before_one_comes_again():
    cases = icl.draw(PAIRS[:3], PAIRS[3:], 1, n_cases=3, n_queries=1)
    assert {case.queries[0] for case in cases} == set(PAIRS[3:])


def test_seeds_differ():
    assert icl.draw(PAIRS[:3], PAIRS[3:], 3, 5, 3, seed=0) != icl.draw(PAIRS[:3], PAIRS[3:], 3, 5, 3, seed=1)


@pytest.mark.parametrize(
    ("pool", "queries", "shots", "n_queries", "message"),
    [
        (PAIRS[:2], PAIRS[2:], 3, 1, "only 2 demonstrations"),
        (PAIRS[:2], PAIRS[2:4], 1, 3, "queries to draw from"),
        (PAIRS[:3], PAIRS[2:], 1, 1, "queries must not be demonstrations too: .'day'"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(pool, queries, shots, n_queries, message):
    with pytest.raises(ValueError, match=message):
        icl.draw(pool, queries, shots, 1, n_queries)


def test_shuffling_keeps_queries_and_answers_and_breaks_pairs():
    case = icl.Case(PAIRS[:5], PAIRS[5:])
    (shuffled,) = icl.shuffle_answers([case])
    assert shuffled.queries == case.queries
    assert [x for x, _ in shuffled.demonstrations] == [x for x, _ in case.demonstrations]
    assert sorted(y for _, y in shuffled.demonstrations) == sorted(y for _, y in case.demonstrations)
    assert shuffled.demonstrations != case.demonstrations


def test_orders_are_all_permutations():
    orders = icl.orders(icl.Case(PAIRS[:3], PAIRS[3:]))
    assert len({tuple(case.demonstrations) for case in orders}) == math.factorial(3)
    assert all(set(case.demonstrations) == set(PAIRS[:3]) for case in orders)


def test_written_and_label_log_probs_agree_with_single_scores(real):
    cases = icl.draw(PAIRS[:3], PAIRS[3:], 2, 2, 2)
    shots, labels = [0, 2], ["small", "new", "dry"]
    right = icl.written(real, icl.Format(), cases, shots)
    chosen = icl.label_log_probs(real, icl.Format(), cases, shots, labels)
    assert right.shape == (2, 2, 2)
    assert chosen.shape == (2, 2, 2, 3)
    for s, k in enumerate(shots):
        for c, case in enumerate(cases):
            for q, (x, y) in enumerate(case.queries):
                tokens = [icl.Format().tokens(real, case.demonstrations[:k], x, label) for label in labels]
                single = [naive_score(real, *pair)[0] for pair in tokens]
                assert_close(chosen[s, c, q], torch.stack(single), atol=1e-3, rtol=0)
                assert right[s, c, q] == naive_score(real, *tokens[labels.index(y)])[1]


def test_truth_is_the_index_of_the_label():
    cases = [icl.Case([], PAIRS[:2]), icl.Case([], PAIRS[1:3])]
    assert icl.truth(cases, ["down", "night", "cold"]).tolist() == [[2, 0], [0, 1]]


@given(st.lists(st.lists(st.floats(-5, 0), min_size=3, max_size=3), min_size=2, max_size=6))
def test_centring_ignores_what_all_queries_share(rows):
    log_probs = torch.tensor(rows)
    tilt = torch.tensor([0.0, -2.0, 1.5])
    assert_close(icl.centred(log_probs + tilt).mean(-2), torch.zeros(3), atol=1e-4, rtol=0)
    same = icl.centred(torch.tensor([rows[0]] * 3))
    assert_close(same, torch.zeros(3, 3), atol=1e-5, rtol=0)


def test_centring_moves_the_choice():
    log_probs = torch.tensor([[0.4, 0.6], [0.1, 0.9]]).log()
    assert log_probs.argmax(-1).tolist() == [1, 1]
    assert icl.centred(log_probs).argmax(-1).tolist() == [0, 1]


def test_top_tokens_are_sorted_probabilities(real):
    ((best, *rest),) = icl.top(real, [real.prompt("The capital of France is")], 5)
    assert best[0] == " Paris"
    probabilities = [best[1], *(p for _, p in rest)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1


def test_the_fingerprint_sees_a_single_weight(llama):
    before = icl.fingerprint(llama)
    assert icl.fingerprint(llama) == before
    weight = next(llama.model.parameters())
    with torch.no_grad():
        kept = weight[0, 0].item()
        weight[0, 0] += 1
        assert icl.fingerprint(llama) != before
        weight[0, 0] = kept
    assert icl.fingerprint(llama) == before


def test_the_interval_is_students():
    mean, low, high = icl.mean_interval(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert mean == pytest.approx(1.5)
    # t(0.975, 3) = 3.182446, s = 1.290994
    assert (low, high) == pytest.approx(
        (1.5 - 3.182446 * 1.290994 / 2, 1.5 + 3.182446 * 1.290994 / 2), abs=1e-5
    )
    assert icl.mean_interval(torch.ones(5)) == (1, 1, 1)
    with pytest.raises(ValueError, match="at least two"):
        icl.mean_interval(torch.ones(1))


@given(st.integers(2, 9), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=50)
def test_the_interval_is_wilsons_where_trials_vary_no_more_than_coins(n, q, data):
    right = data.draw(st.integers(0, q))  # in every trial
    found = icl.accuracy((right > torch.arange(q)).float().expand(n, q))
    wilson = binomtest(n * right, n * q).proportion_ci(method="wilson")
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert_close(list(found), [right / q, wilson.low, wilson.high])


def test_queries_that_fail_together_count_as_one():
    together = torch.tensor([[1.0] * 10, [0.0] * 10] * 20)  # 40 trials, all or nothing
    wilson = binomtest(20, 39).proportion_ci(method="wilson")
    found = icl.accuracy(together)
    assert abs((found.high - found.low) - (wilson.high - wilson.low)) < 0.005
    mixed = icl.accuracy(torch.tensor([[1.0, 0.0] * 5] * 40))
    assert mixed.high - mixed.low < (found.high - found.low) / 2.5


@pytest.mark.parametrize("shape", [(1, 5), (5,), (3, 0), (2, 3, 4)])
def test_an_interval_needs_trials_and_queries(shape):
    with pytest.raises(ValueError, match="of at least 2 trials"):
        icl.accuracy(torch.ones(shape))


def test_settings_do_not_share_texts():
    for task in icl.FORMATS:
        first, second = icl.settings(task, 2)
        texts = [{x for x, _ in s.case.demonstrations} for s in (first, second)]
        asked = [{x for x, _ in s.case.queries} for s in (first, second)]
        assert [len(t) for t in texts + asked] == [8, 8, 12, 12]
        assert not (texts[0] | texts[1]) & (asked[0] | asked[1])
        assert all(y in first.labels for _, y in first.case.demonstrations)
        assert max(len(x.split()) for x in texts[0] | asked[0]) <= 20
        assert len(icl.settings(task, 1, shots=4)[0].case.demonstrations) == 4
