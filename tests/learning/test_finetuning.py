"""Fine-tuning that leaves the model as it was, and likenesses of known value."""

import pytest
import torch

from course_lib import lm
from course_lib.fewshot import Case, Classification, Format
from course_lib.learning import finetuning
from course_lib.learning.finetuning import Look

FORMAT = Format("{x}={y}", ";")
SHOWN = [("ab", "yes"), ("cd", "no"), ("ef", "yes")]
CASE = Case(SHOWN, [("gh", "no"), ("xyz", "yes")])
LABELS = ("yes", "no")
TASK = Classification("letters", FORMAT, LABELS, (), ())


# Fine-tuning


@pytest.mark.parametrize("loss", [lm.answer_loss, lm.layer_losses])
def test_one_step_for_each_demonstration_in_order(separate, loss):
    before = lm.fingerprint(separate)
    once = finetuning.finetune(separate, FORMAT, SHOWN[:1], 0.1, loss)
    other, weights = lm.copy_keys_and_values(separate)
    gradients = torch.autograd.grad(loss(other, *FORMAT.tokens(other, [], *SHOWN[0])), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        torch.testing.assert_close(once.model.get_parameter(name), weight - 0.1 * gradient)
    at_once = finetuning.finetune(separate, FORMAT, SHOWN[:2], 0.1, loss)
    in_turn = finetuning.finetune(once, FORMAT, SHOWN[1:2], 0.1, loss)
    for name in weights:
        torch.testing.assert_close(at_once.model.get_parameter(name), in_turn.model.get_parameter(name))
    assert lm.fingerprint(separate) == before
    assert all(p.grad is None for p in separate.model.parameters())


def test_fine_tuning_learns(real):
    pairs = [("The sky on a clear day is", "green")]
    form = Format("{x} {y}")
    prompt, answer = form.tokens(real, [], *pairs[0])
    before = lm.fingerprint(real)
    tuned = finetuning.finetune(real, form, pairs * 3, 0.01)
    losses = [lm.answer_loss(model, prompt, answer).item() for model in (real, tuned)]
    assert losses[1] < losses[0] - 1
    assert lm.fingerprint(real) == before


def test_a_random_update_goes_as_far_in_each_matrix(llama):
    tuned = finetuning.finetune(llama, FORMAT, SHOWN, 0.1)
    one, same, two = (finetuning.random_update(llama, tuned, seed) for seed in (0, 0, 1))
    far = finetuning.random_update(llama, tuned, 0, times=7)
    _, weights = lm.copy_keys_and_values(llama)
    for name, weight in weights.items():
        moved = [model.model.get_parameter(name) - weight for model in (tuned, one, two)]
        torch.testing.assert_close(moved[0].norm(), moved[1].norm(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(far.model.get_parameter(name) - weight, 7 * moved[1], rtol=1e-3, atol=1e-5)
        assert torch.cosine_similarity(moved[1].flatten(), moved[2].flatten(), dim=0).abs() < 0.3
        assert torch.equal(one.model.get_parameter(name), same.model.get_parameter(name))


# Likenesses


def test_a_look_reads_the_last_token(tiny):
    for shots in (0, 3):
        seen = finetuning.look(tiny, FORMAT, CASE, shots, LABELS)
        prompts = [FORMAT.tokens(tiny, SHOWN[:shots], x)[0] for x, _ in CASE.queries]
        out = lm.forward(tiny, prompts, lm.Read(heads=range(4), attention=range(4)))
        torch.testing.assert_close(seen.outputs, out.heads[:, :, 0])
        last = 3  # "gh="; one byte is one token
        alpha = out.attention[1, 2, 0, 1, len(prompts[1]) - last : len(prompts[1])]
        expected = alpha.clamp_min(1e-30).log()
        torch.testing.assert_close(seen.scores[1, 2, 1], expected - expected.mean())
        assert seen.scores.shape == (2, 4, tiny.n_heads, last)
        assert seen.choices.shape == (2,)


def planted(outputs, choices=(0, 0, 0)):
    scores = torch.ones(3, 2, 1, 4)
    return Look(outputs.unflatten(-1, (5, -1)), scores, torch.tensor(choices))  # five heads


def test_directions_are_compared_from_where_the_query_was():
    zero = torch.full((3, 2, 5), 100.0)
    step = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    icl = planted(zero + step)
    for factor, cosine in ((0.5, 1), (-2.0, -1)):
        tuned = planted(zero + factor * step)
        torch.testing.assert_close(
            finetuning.same_direction(icl, tuned, planted(zero)),
            torch.full((2,), float(cosine)),
            atol=1e-4,
            rtol=0,
        )


def test_sideways_leaves_out_what_shortens_both():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, 400, generator=generator)
    one, two = torch.randn(2, 3, 2, 400, generator=generator)
    icl, tuned = (planted(0.1 * start + 0.2 * noise) for noise in (one, two))
    assert finetuning.same_direction(icl, tuned, planted(start)).min() > 0.8
    apart = finetuning.same_direction(icl, tuned, planted(start), sideways=True)
    assert apart.abs().max() < 0.15
    near = planted(start + one), planted(start + one - 0.5 * start)
    torch.testing.assert_close(
        finetuning.same_direction(*near, planted(start), sideways=True), torch.ones(2), atol=1e-4, rtol=0
    )


def test_attention_is_compared_within_each_head():
    scores = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    one = Look(torch.zeros(3, 2, 1), scores, torch.zeros(3))
    two = one._replace(scores=torch.cat([scores[:, :, :2] * 3, -scores[:, :, 2:]], 2))
    torch.testing.assert_close(finetuning.same_attention(one, one), torch.ones(2))
    torch.testing.assert_close(finetuning.same_attention(one, two), torch.zeros(2), atol=1e-6, rtol=0)


def test_recall_counts_answers_that_were_wrong_before():
    nothing = torch.zeros(3, 2, 5)
    truth = torch.tensor([1, 1, 1])
    zero, icl, tuned = (planted(nothing, choices) for choices in ((1, 0, 0), (1, 1, 0), (1, 1, 1)))
    by_tuning, by_icl = finetuning.recalled(icl, tuned, zero, truth)
    assert by_tuning.tolist() == [False, True, True]
    assert by_icl.tolist() == [False, True, False]


# Updates beside each other


def lesson(case):
    return TASK, case


def test_each_update_is_another(llama):
    own, other = lesson(CASE), lesson(Case([("q", "no")], CASE.queries))
    tuned = [finetuning.updated(llama, update, own, other) for update in finetuning.UPDATES]
    assert len({lm.fingerprint(model) for model in tuned}) == len(finetuning.UPDATES)
    expected = finetuning.finetune(llama, FORMAT, SHOWN, finetuning.LR)
    assert lm.fingerprint(tuned[0]) == lm.fingerprint(expected)
    wrong = [("ab", "no"), ("cd", "yes"), ("ef", "no")]
    for i, pairs in ((2, wrong), (3, [("q", "no")])):
        assert lm.fingerprint(tuned[i]) == lm.fingerprint(
            finetuning.finetune(llama, FORMAT, pairs, finetuning.LR)
        )
    with pytest.raises(ValueError, match="update='prayer': expected one of gradient descent"):
        finetuning.updated(llama, "prayer", own, other)


def test_rows_hold_what_was_measured(llama, monkeypatch):
    monkeypatch.setattr(finetuning, "SHOTS", 3)
    (row,) = finetuning.compare_updates(llama, lesson(CASE), lesson(CASE), ["gradient descent"])
    zero, icl = (finetuning.look(llama, FORMAT, CASE, shots, LABELS) for shots in (0, 3))
    tuned = finetuning.look(finetuning.finetune(llama, FORMAT, SHOWN, finetuning.LR), FORMAT, CASE, 0, LABELS)
    expected = finetuning.same_direction(icl, tuned, zero).mean()
    assert row["update"] == "gradient descent"
    assert row["direction"] == pytest.approx(expected.item(), abs=1e-4)
    assert row["attention before"] == pytest.approx(
        finetuning.same_attention(icl, zero).mean().item(), abs=1e-4
    )
    assert row["size"] > 0
    right = torch.tensor([1, 0])
    assert row["calibrated accuracy"][0] == (zero.choices == right).double().mean()
    assert row["recalled"][3] == (zero.choices != right).sum()
