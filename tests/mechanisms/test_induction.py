"""Induction heads: scores on heads made by hand, sequences, small models, and a real one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from course_lib import lm
from course_lib.mechanisms import induction
from course_lib.readouts import averages as attention
from course_lib.scratch.transformer import Config, Transformer, logits

TWICE = torch.arange(10).repeat(2)[None]  # t₁ … t₁₀ t₁ … t₁₀
PLACES = torch.arange(20)
SECOND = (PLACES >= 10)[None]


def looking_at(places):
    """(1, 1, 1, T, T) all attention of position i on places[i]."""
    return one_hot(places, len(places)).float()[None, None, None]


UNIFORM = (torch.ones(20, 20).tril() / (PLACES[:, None] + 1))[None, None, None]
INDUCTION = looking_at(torch.where(PLACES < 10, PLACES, PLACES - 9))
FRONT = looking_at((PLACES - 1).clamp(min=0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Scores


def test_a_head_made_to_do_induction_scores_one_and_a_uniform_one_its_chance():
    assert induction.prefix_matching(INDUCTION, TWICE, SECOND).item() == 1
    assert induction.prefix_matching(FRONT, TWICE, SECOND).item() == 0
    chance = (1 / (PLACES[10:] + 1.0)).mean().item()
    assert induction.prefix_matching(UNIFORM, TWICE, SECOND).item() == pytest.approx(chance)


def test_a_head_made_to_look_to_the_front_scores_one():
    assert induction.previous_token(FRONT).item() == 1
    assert induction.previous_token(INDUCTION).item() == pytest.approx(0)
    assert induction.previous_token(UNIFORM).item() == pytest.approx((1 / (PLACES[1:] + 1.0)).mean().item())


def test_scores_keep_layers_and_heads_apart():
    alpha = torch.cat([torch.cat([FRONT, INDUCTION], 2), torch.cat([UNIFORM, FRONT], 2)], 1)
    assert induction.previous_token(alpha)[[0, 1], [0, 1]].tolist() == [1, 1]
    assert induction.prefix_matching(alpha, TWICE, SECOND)[0].tolist() == [0, 1]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_prefix_matching_counts_what_a_loop_counts(sequence):
    T = len(sequence)
    alpha = torch.rand(T, T, generator=generator()).tril()
    alpha = alpha / alpha.sum(-1, keepdim=True)
    masses = [
        [alpha[i, j].item() for j in range(1, i + 1) if sequence[j - 1] == sequence[i]] for i in range(T)
    ]
    masses = [sum(mass) for mass in masses if mass]
    score = induction.prefix_matching(alpha[None, None, None], torch.tensor([sequence]))
    if masses:
        assert score.item() == pytest.approx(sum(masses) / len(masses), abs=1e-5)


@pytest.mark.parametrize(("sign", "score"), [(1.0, 1.0), (-1.0, -1.0)])
def test_a_head_that_writes_what_it_attends_to_copies(sign, score):
    attended = UNIFORM @ one_hot(TWICE, 10).float()[:, None, None]
    assert induction.copying(UNIFORM, sign * attended + 3, TWICE).item() == pytest.approx(score, abs=1e-4)


def test_a_head_that_writes_at_random_does_not_copy():
    raised = torch.randn(50, 1, 1, 20, 10, generator=generator())
    alpha, tokens = UNIFORM.expand(50, 1, 1, 20, 20), TWICE.expand(50, 20)
    assert abs(induction.copying(alpha, raised, tokens).item()) < 0.05


def test_composition_of_what_is_read_with_what_is_written():
    read = torch.eye(8)[:3]  # reads the first three directions
    assert induction.composition(read, torch.eye(8)[:, 3:6]).item() == 0
    assert induction.composition(read, torch.eye(8)[:, :3]).item() == pytest.approx(3**-0.5)
    one = torch.eye(8)[:1]
    assert induction.composition(one, one.T).item() == 1
    r = torch.randn(2, 200, 64, 64, generator=generator())
    assert induction.composition(*r).mean().item() == pytest.approx(1 / 8, abs=0.005)


# Sequences


def copied_at(tokens, segment):
    """Where the second time of the segment begins, and how far from the first, for distinct tokens."""
    at = [row.nonzero()[0].item() - 1 for row in induction.repeated_pairs(tokens)]
    return [(i, i - row.tolist().index(row[i])) for i, row in zip(at, tokens, strict=True)]


def test_copies_hold_a_segment_twice_at_any_distance():
    tokens = induction.copies(V=100_000, length=20, segment=6)(2000, generator())
    assert tokens.shape == (2000, 20)
    assert set(induction.repeated_pairs(tokens).sum(1).tolist()) == {5}  # all but the first of six
    found = copied_at(tokens, 6)
    distances = [sum(d == k for _, d in found) for k in range(6, 15)]
    assert sum(distances) == 2000
    assert min(distances) > 150  # of 222 expected: no distance can be guessed
    assert {i - d for i, d in found if d == 6} == set(range(9))


def test_copies_at_one_distance():
    tokens = induction.copies(V=100_000, length=20, segment=6, distance=9)(100, generator())
    assert {d for _, d in copied_at(tokens, 6)} == {9}


@pytest.mark.parametrize(("segment", "distance"), [(11, None), (6, 5), (6, 15)])
def test_segments_that_do_not_fit_are_told(segment, distance):
    with pytest.raises(ValueError, match="fit into 20 tokens"):
        induction.copies(length=20, segment=segment, distance=distance)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_repeated_pairs_are_those_a_loop_finds(sequence):
    pairs = [tuple(sequence[i - 1 : i + 1]) for i in range(1, len(sequence))]
    expected = [False] + [pair in pairs[:i] for i, pair in enumerate(pairs)]
    assert induction.repeated_pairs(torch.tensor([sequence]))[0].tolist() == expected


# Small models


def small(layers, readout=attention.softmax):
    torch.manual_seed(0)
    return Transformer(Config(4, 12, layers, heads=2, d=16, rotary=True, mlp=False), readout)


TOKENS = torch.randint(4, (3, 12), generator=generator(1))


def test_what_the_heads_raise_adds_up_to_the_logits():
    model = small(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.norm.bias.data.zero_()
    seen = induction.watch(model, TOKENS)
    biases = sum(block.attention.out.bias for block in model.blocks)
    other = model.tokens.weight[TOKENS] + biases
    other = (other - other.mean(-1, keepdim=True)) * model.norm.weight @ model.tokens.weight.T
    total = seen.raised.sum((1, 2)) + other
    right = logits(model, TOKENS)
    scale = (total * right).sum(-1, keepdim=True) / right.square().sum(-1, keepdim=True)
    torch.testing.assert_close(total, scale * right, atol=1e-4, rtol=1e-3)
    assert (scale > 0).all()


def test_watched_weights_are_those_of_each_layer():
    seen = induction.watch(small(2), TOKENS)
    assert seen.alpha.shape == (3, 2, 2, 12, 12)
    assert seen.raised.shape == (3, 2, 2, 12, 4)
    torch.testing.assert_close(seen.alpha.sum(-1), torch.ones(3, 2, 2, 12))
    assert (seen.alpha.triu(1) == 0).all()


def test_smeared_keys_are_plain_ones_or_those_before():
    q, k, v = torch.randn(3, 2, 2, 6, 8, generator=generator())
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    smeared = induction.Smeared(2)
    smeared.share.data = torch.tensor([40.0, -40.0])[:, None, None]
    _, alpha = smeared(q, k, v, mask)
    before = torch.cat([torch.zeros(2, 2, 1, 8), k[:, :, :-1]], 2)
    torch.testing.assert_close(alpha[:, 0], attention.softmax(q, k, v, mask)[1][:, 0])
    torch.testing.assert_close(alpha[:, 1], attention.softmax(q, before, v, mask)[1][:, 1])


def test_key_composition_sees_the_path_from_one_head_to_the_next():
    model = small(2)
    first, second = (block.attention for block in model.blocks)
    for layer in (first, second):
        layer.queries_keys_values.weight.data.zero_()
        layer.out.weight.data.zero_()
    first.queries_keys_values.weight.data.view(3, 2, 8, 16)[2, 0, 0, 0] = 1  # head 0 reads direction 0 …
    first.queries_keys_values.weight.data.view(3, 2, 8, 16)[2, 1, 0, 0] = 1
    first.out.weight.data[5, 0] = 1  # … and writes it into direction 5, head 1 into direction 6
    first.out.weight.data[6, 8] = 1
    keys = second.queries_keys_values.weight.data.view(3, 2, 8, 16)
    keys[0, :, 0, 1] = 1
    keys[1, 0, 0, 6:8] = keys[1, 1, 0, 9] = 1  # head 0 compares with directions 6 and 7, head 1 with 9
    found = induction.key_composition(model)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [2**-0.5, 0.0]]))
    model.blocks[1].norm_attention.weight.data[7] = 0  # of these only 6 passes the norm
    torch.testing.assert_close(induction.key_composition(model), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


# A real model


def test_repeated_prompts_are_random_tokens_twice(tiny):
    prompts = induction.repeated(tiny, n=3, length=7)
    start = tiny.document_start
    for prompt in prompts:
        tokens = prompt[len(start) :]
        assert prompt[: len(start)] == start
        assert tokens[:7] == tokens[7:]
        assert len(set(tokens)) == 7
        assert not set(tokens) & set(tiny.tokenizer.all_special_ids)
    assert len({tuple(prompt) for prompt in prompts}) == 3
    special = set(tiny.tokenizer.all_special_ids)
    [every] = induction.repeated(tiny, n=1, length=len(tiny.tokenizer) - len(special))
    assert set(every[len(start) :]) == set(range(len(tiny.tokenizer))) - special
    assert induction.repeated(tiny, n=3, length=7, seed=1) != prompts


def test_scores_of_heads_are_those_of_their_attention_and_outputs(tiny):
    prompts = induction.repeated(tiny, n=2, length=6)
    scores = induction.head_scores(tiny, prompts)
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
    cut = induction.head_scores(tiny, prompts, lm.ablation([(1, 0)]))
    torch.testing.assert_close(cut.prefix[:2], scores.prefix[:2])  # below and beside it all is as it was
    assert (cut.prefix[2:] - scores.prefix[2:]).abs().max() > 1e-4


def test_the_real_model_has_induction_heads(real):
    scores = induction.head_scores(real, induction.repeated(real, n=2))
    assert scores.prefix.max() > 0.75
    assert scores.prefix.median() < 0.03
    assert divmod(int(scores.prefix.argmax()), real.n_heads)[0] > 10
