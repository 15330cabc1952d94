"""Scores of answers: the one scorer, with and without actions, and what is made of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from course_lib import fewshot, lm, readouts
from course_lib.fewshot import scoring

PAIRS = [("hot", "cold"), ("up", "down"), ("day", "night"), ("big", "small"), ("old", "new"), ("wet", "dry")]


def test_scores_equal_a_forward_of_the_whole_text(llama, monkeypatch):
    monkeypatch.setattr(scoring, "CONTEXTS_AT_A_TIME", 3)  # several parts
    prompts = [[1, 2, 3], [1, 2, 3], [1, 2], [5]]
    answers = [[[4, 5, 6], [8]], [[4, 7], [4]], [[3, 4], [3]], [[9], naive_best(llama, [5], 3)]]
    found = fewshot.score(llama, prompts, answers)
    assert found.log_p.shape == found.greedy.shape == (4, 2)
    for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        for a, answer in enumerate(each):
            expected, best = naive_score(llama, prompt, answer)
            assert_close(found.log_p[i, a], expected, atol=1e-4, rtol=0)
            assert bool(found.greedy[i, a]) == best
    assert found.greedy[3, 1]
    assert not found.greedy[:3, 0].any()


def test_actions_follow_their_prompts_into_the_contexts_of_answers(tiny, monkeypatch):
    """Each prompt alone, with its own actions, and its answers one token after another."""
    monkeypatch.setattr(scoring, "CONTEXTS_AT_A_TIME", 4)
    prompts, answers = (
        [[1, 2, 3, 4], [5, 6, 7], [1, 2, 3, 4]],
        [[[8, 9], [10]], [[9], [8, 7]], [[8, 9], [11]]],
    )
    d = tiny.model.config.hidden_size
    value = torch.randn(2, d, generator=torch.Generator().manual_seed(0))
    write = [
        lm.Write(1, value, prompts=[2, 1]),  # at the last token of each prompt
        lm.Write(2, 0.5, position=1, head=1, prompts=[0]),
        lm.Write(0, 0.0, position=None, head=2),
    ]
    links = [[(3, 1, 0.0), (-1, 2, 0.5)], [], [(2, 0, 0.25)]]
    found = fewshot.score(tiny, prompts, answers, write=write, weigh=[lm.Weigh([1, 3], links)])
    for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        last = len(prompt) - 1
        own = [lm.Write(0, 0.0, position=None, head=2)]
        own += [lm.Write(1, value[k], position=last) for k, p in enumerate((2, 1)) if p == i]
        own += [lm.Write(2, 0.5, position=1, head=1)] if i == 0 else []
        counted = [(q % len(prompt), k, factor) for q, k, factor in links[i]]
        for a, answer in enumerate(each):
            log_p = 0.0
            for j, token in enumerate(answer):
                context = [[*prompt, *answer[:j]]]
                logits = lm.forward(tiny, context, None, own, (), lm.Weigh([1, 3], [counted])).logits[0]
                log_p += logits.log_softmax(-1)[token].item()
            assert found.log_p[i, a].item() == pytest.approx(log_p, abs=1e-4)
    attend = [lm.Attend(1, readouts.uniform)]
    other = fewshot.score(tiny, prompts, answers, attend=attend)
    logits = lm.forward(tiny, [prompts[1]], attend=attend).logits[0]
    assert_close(other.log_p[1, 0], logits.log_softmax(-1)[9], atol=1e-4, rtol=0)


def test_label_scores_are_those_of_the_first_tokens(tiny):
    prompts, labels = [[1, 2, 3], [4, 5]], [7, 9, 11]
    found = fewshot.label_scores(tiny, prompts, labels)
    assert_close(found, lm.forward(tiny, prompts).logits.log_softmax(-1)[:, labels], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("answers", [[], [[[1]], [[2]]], [[]], [[[]]], [[[1], []]]])
def test_every_prompt_needs_an_answer(llama, answers):
    with pytest.raises(ValueError, match="one for each prompt"):
        fewshot.score(llama, [[1]], answers)


def test_prompts_have_as_many_answers_each(llama):
    with pytest.raises(ValueError, match="as many answers each"):
        fewshot.score(llama, [[1], [2]], [[[1]], [[1], [2]]])


def test_accuracy_and_label_measures():
    log_p = torch.tensor([[[0.4, 0.6], [0.1, 0.9]], [[0.8, 0.2], [0.3, 0.7]]]).log() - 1
    right = torch.tensor([[0, 1], [0, 0]])
    assert fewshot.accuracy(log_p, right).tolist() == [0.5, 0.5]
    assert fewshot.calibrated_accuracy(log_p, right).tolist() == [1.0, 0.5]
    found = fewshot.label_measures(log_p, right)
    assert found["right"].tolist() == [[False, True], [True, False]]
    assert found["calibrated"].tolist() == [[True, True], [True, False]]
    assert_close(found["log p"].exp(), torch.tensor([[0.4, 0.9], [0.8, 0.3]]))
    assert_close(found["mass"], torch.full((2, 2), 0.36788))
    odds = (log_p[..., 1] - log_p[..., 0]).mean(-1)
    assert_close(fewshot.tilt(log_p).diff(dim=-1)[:, 0], odds)


def naive_score(model, prompt, answer):
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    ahead = logits[len(prompt) - 1 : -1].log_softmax(-1)
    target = torch.tensor(answer)
    return ahead.gather(1, target[:, None]).sum(), bool((ahead.argmax(-1) == target).all())


def test_an_answer_that_begins_wrong_and_ends_right_is_not_greedy(llama):
    wrong = (naive_best(llama, [5], 1)[0] + 1) % 200
    right_after = naive_best(llama, [5, wrong], 1)
    assert not fewshot.score(llama, [[5]], [[[wrong, *right_after]]]).greedy.item()


def naive_best(model, prompt, n):
    """What greedy decoding writes."""
    tokens = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_answered_and_label_log_probs_agree_with_single_scores(real):
    cases = fewshot.draw(PAIRS[:3], PAIRS[3:], 2, 2, 2)
    shots, labels = [0, 2], ["small", "new", "dry"]
    right = fewshot.answered(real, fewshot.Format(), cases, shots)
    chosen = fewshot.label_log_probs(real, fewshot.Format(), cases, shots, labels)
    assert right.shape == (2, 2, 2)
    assert chosen.shape == (2, 2, 2, 3)
    for s, k in enumerate(shots):
        for c, case in enumerate(cases):
            for q, (x, y) in enumerate(case.queries):
                tokens = [
                    fewshot.Format().tokens(real, case.demonstrations[:k], x, label) for label in labels
                ]
                single = [naive_score(real, *pair)[0] for pair in tokens]
                assert_close(chosen[s, c, q], torch.stack(single), atol=1e-3, rtol=0)
                assert right[s, c, q] == naive_score(real, *tokens[labels.index(y)])[1]


@given(st.lists(st.lists(st.floats(-5, 0), min_size=3, max_size=3), min_size=2, max_size=6))
def test_without_the_tilt_a_choice_ignores_what_all_queries_share(rows):
    log_probs = torch.tensor(rows)
    tilt = torch.tensor([0.0, -2.0, 1.5])
    assert_close(fewshot.without_tilt(log_probs + tilt).mean(-2), torch.zeros(3), atol=1e-4, rtol=0)
    same = fewshot.without_tilt(torch.tensor([rows[0]] * 3))
    assert_close(same, torch.zeros(3, 3), atol=1e-5, rtol=0)


def test_taking_out_the_tilt_moves_the_choice():
    log_probs = torch.tensor([[0.4, 0.6], [0.1, 0.9]]).log()
    assert log_probs.argmax(-1).tolist() == [1, 1]
    assert fewshot.without_tilt(log_probs).argmax(-1).tolist() == [0, 1]


def test_top_tokens_are_sorted_probabilities(real):
    ((best, *rest),) = fewshot.top(real, [real.prompt("The capital of France is")], 5)
    assert best[0] == " Paris"
    probabilities = [best[1], *(p for _, p in rest)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1
