"""What heads attend to and what they write: prefix matching, previous token, copying."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from course_lib import lm

TWICE = torch.arange(10).repeat(2)[None]  # t₁ … t₁₀ t₁ … t₁₀
PLACES = torch.arange(20)
SECOND = (PLACES >= 10)[None]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def looking_at(places):
    """(1, 1, 1, T, T) all attention of position i on places[i]."""
    return one_hot(places, len(places)).float()[None, None, None]


UNIFORM = (torch.ones(20, 20).tril() / (PLACES[:, None] + 1))[None, None, None]
INDUCTION = looking_at(torch.where(PLACES < 10, PLACES, PLACES - 9))
FRONT = looking_at((PLACES - 1).clamp(min=0))


def test_a_head_made_to_do_induction_scores_one_and_a_uniform_one_its_chance():
    assert lm.prefix_matching(INDUCTION, TWICE, SECOND).item() == 1
    assert lm.prefix_matching(FRONT, TWICE, SECOND).item() == 0
    chance = (1 / (PLACES[10:] + 1.0)).mean().item()
    assert lm.prefix_matching(UNIFORM, TWICE, SECOND).item() == pytest.approx(chance)


def test_a_head_made_to_look_to_the_front_scores_one():
    assert lm.previous_token(FRONT).item() == 1
    assert lm.previous_token(INDUCTION).item() == pytest.approx(0)
    assert lm.previous_token(UNIFORM).item() == pytest.approx((1 / (PLACES[1:] + 1.0)).mean().item())


def test_scores_keep_layers_and_heads_apart():
    alpha = torch.cat([torch.cat([FRONT, INDUCTION], 2), torch.cat([UNIFORM, FRONT], 2)], 1)
    assert lm.previous_token(alpha)[[0, 1], [0, 1]].tolist() == [1, 1]
    assert lm.prefix_matching(alpha, TWICE, SECOND)[0].tolist() == [0, 1]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_prefix_matching_counts_what_a_loop_counts(sequence):
    T = len(sequence)
    alpha = torch.rand(T, T, generator=generator()).tril()
    alpha = alpha / alpha.sum(-1, keepdim=True)
    masses = [
        [alpha[i, j].item() for j in range(1, i + 1) if sequence[j - 1] == sequence[i]] for i in range(T)
    ]
    masses = [sum(mass) for mass in masses if mass]
    score = lm.prefix_matching(alpha[None, None, None], torch.tensor([sequence]))
    if masses:
        assert score.item() == pytest.approx(sum(masses) / len(masses), abs=1e-5)


@pytest.mark.parametrize(("sign", "score"), [(1.0, 1.0), (-1.0, -1.0)])
def test_a_head_that_writes_what_it_attends_to_copies(sign, score):
    attended = UNIFORM @ one_hot(TWICE, 10).float()[:, None, None]
    assert lm.copying(UNIFORM, sign * attended + 3, TWICE).item() == pytest.approx(score, abs=1e-4)


def test_a_head_that_writes_at_random_does_not_copy():
    raised = torch.randn(50, 1, 1, 20, 10, generator=generator())
    alpha, tokens = UNIFORM.expand(50, 1, 1, 20, 20), TWICE.expand(50, 20)
    assert abs(lm.copying(alpha, raised, tokens).item()) < 0.05


def test_repeated_prompts_are_random_tokens_twice(tiny):
    prompts = lm.repeated_tokens(tiny, n=3, length=7)
    start = tiny.document_start
    for prompt in prompts:
        tokens = prompt[len(start) :]
        assert prompt[: len(start)] == start
        assert tokens[:7] == tokens[7:]
        assert len(set(tokens)) == 7
        assert not set(tokens) & set(tiny.tokenizer.all_special_ids)
    assert len({tuple(prompt) for prompt in prompts}) == 3
    special = set(tiny.tokenizer.all_special_ids)
    [every] = lm.repeated_tokens(tiny, n=1, length=len(tiny.tokenizer) - len(special))
    assert set(every[len(start) :]) == set(range(len(tiny.tokenizer))) - special
    assert lm.repeated_tokens(tiny, n=3, length=7, seed=1) != prompts


def test_scores_of_heads_are_those_of_their_attention_and_outputs(tiny):
    prompts = lm.repeated_tokens(tiny, n=2, length=6)
    scores = lm.head_scores(tiny, prompts)
    s = len(tiny.document_start)
    assert all(score.shape == (tiny.n_layers, tiny.n_heads) for score in scores)
    layer, head = 3, 1
    matched, front = [], []
    for prompt in prompts:
        for i in range(1, len(prompt)):
            read = lm.Read(attention=[layer], positions=[i])
            alpha = lm.forward(tiny, [prompt], read).attention[0, 0, 0, head]
            front.append(alpha[i - 1].item())
            if i >= s + 6:
                matched.append(alpha[i - 5].item())
    assert scores.prefix[layer, head].item() == pytest.approx(sum(matched) / len(matched), abs=1e-5)
    assert scores.previous[layer, head].item() == pytest.approx(sum(front) / len(front), abs=1e-5)
    assert (scores.copying.abs() <= 1).all()
    copied = []
    for prompt in prompts:
        places = range(s, len(prompt))
        out = lm.forward(tiny, [prompt], lm.Read(heads=[layer], attention=[layer], positions=places))
        alpha = out.attention[0, 0, :, head, s:]  # (T, T)
        written = out.heads[0, 0, :, head] @ lm.output_projections(tiny)[layer, head]
        raised = written @ lm.unembedding(tiny)[prompt[s : s + 6]].T  # (T, 6)
        attended = alpha[:, :6] + alpha[:, 6:]
        copied += [
            torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(attended[1:], raised[1:], strict=True)
        ]
    assert scores.copying[layer, head].item() == pytest.approx(torch.stack(copied).mean().item(), abs=1e-4)
    cut = lm.head_scores(tiny, prompts, lm.ablation([(1, 0)]))
    torch.testing.assert_close(cut.prefix[:2], scores.prefix[:2])  # below and beside it all is as it was
    assert (cut.prefix[2:] - scores.prefix[2:]).abs().max() > 1e-4


def test_the_real_model_has_induction_heads(real):
    scores = lm.head_scores(real, lm.repeated_tokens(real, n=2))
    assert scores.prefix.max() > 0.75
    assert scores.prefix.median() < 0.03
    assert divmod(int(scores.prefix.argmax()), real.n_heads)[0] > 10
