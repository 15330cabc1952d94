"""Induction heads: scores on heads made by hand, sequences, small models, and a real one."""

import pytest
import torch

from course_lib import readouts
from course_lib.mechanisms import induction
from course_lib.scratch.transformer import Config, Transformer, logits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Scores


def test_composition_of_what_is_read_with_what_is_written():
    read = torch.eye(8)[:3]  # reads the first three directions
    assert induction.composition(read, torch.eye(8)[:, 3:6]).item() == 0
    assert induction.composition(read, torch.eye(8)[:, :3]).item() == pytest.approx(3**-0.5)
    one = torch.eye(8)[:1]
    assert induction.composition(one, one.T).item() == 1
    r = torch.randn(2, 200, 64, 64, generator=generator())
    assert induction.composition(*r).mean().item() == pytest.approx(1 / 8, abs=0.005)


# Sequences


# Small models


def small(layers, readout=readouts.softmax):
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
    torch.testing.assert_close(alpha[:, 0], readouts.softmax(q, k, v, mask)[1][:, 0])
    torch.testing.assert_close(alpha[:, 1], readouts.softmax(q, before, v, mask)[1][:, 1])


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
