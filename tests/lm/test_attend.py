"""Other ways to attend in a forward pass: readouts in place of softmax, weighed and cut links."""

import pytest
import torch
from plain import EXACT, PROMPTS, last_logits
from torch.testing import assert_close

from course_lib import lm, readouts


def test_softmax_in_place_of_softmax_changes_nothing(tiny):
    attends = [lm.Attend(layer, readouts.softmax) for layer in range(tiny.n_layers)]
    assert_close(lm.forward(tiny, PROMPTS, attend=attends).logits, last_logits(tiny, PROMPTS), **EXACT)


def test_other_ways_to_attend_in_some_heads(tiny):
    def heads(attend):
        out = lm.forward(tiny, PROMPTS, lm.Read(heads=[1, 2], positions=[-1, 0]), attend=attend)
        assert out.logits.isfinite().all()
        return out.heads  # (N, layers, P, n_heads, head_dim)

    usual = heads([])
    uniform = heads(lm.Attend(1, readouts.uniform))
    two = heads([lm.Attend(1, readouts.uniform, heads=[0, 1])])
    assert_close(two[:, 0, :, [0, 1]], uniform[:, 0, :, [0, 1]], **EXACT)
    assert_close(two[:, 0, :, [2, 3]], usual[:, 0, :, [2, 3]], **EXACT)
    assert_close(two[:, :, 1], usual[:, :, 1], **EXACT)  # the first token sees only itself
    changed = (two - usual).abs().amax((1, 2, 3, 4))
    assert (changed[[len(prompt) > 1 for prompt in PROMPTS]] > 1e-3).all()


def test_uniform_attention_averages_the_values(llama):
    prompt = PROMPTS[1]
    seen = []

    def readout(queries, keys, values, mask):
        seen.append((queries.shape, keys.shape, values.shape, mask.shape))
        outputs, weights = readouts.uniform(queries, keys, values, mask)
        seen.append((weights, values))
        return outputs, weights

    read = lm.Read(heads=[2], positions=list(range(len(prompt))))
    heads = lm.forward(llama, [prompt], read, attend=lm.Attend(2, readout)).heads[0, 0]
    shapes, (weights, values) = seen
    assert shapes == ((1, 2, 14, 8), (1, 2, 7, 8), (1, 2, 7, 8), (1, 1, 14, 7))
    rows = torch.ones(7, 7).tril()
    assert_close(weights, (rows / rows.sum(-1, keepdim=True)).repeat(1, 2, 2, 1))
    averages = (
        values.cumsum(2) / torch.arange(1, 8)[:, None]
    )  # (1, kv, n, head_dim), for both heads of a group
    assert_close(heads, averages[0].repeat_interleave(2, 0).transpose(0, 1))


def times(factors, heads):
    """Softmax with factors (n, n) in some heads, for one prompt: what `lm.Weigh` is to do."""

    def readout(queries, keys, values, mask):
        kv, n = keys.shape[1], keys.shape[2]
        scores = (queries @ keys.mT * queries.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
        scores = scores.unflatten(2, (-1, n))  # (1, kv, group, n, n)
        weigh = torch.zeros(kv * scores.shape[2], n, n)
        weigh[heads] = factors.log()
        alpha = (scores + weigh.view(kv, -1, n, n)).softmax(-1).flatten(2, 3)
        return alpha @ values, alpha

    return readout


def test_weighed_attention(tiny):
    """Prompts that share their beginnings but not their factors, against one at a time with a readout."""
    links = [[(2, 1, 0.0), (-1, 0, 3.0), (-1, 2, 0.5)], [], [(2, 1, 0.0)], [(2, 0, 9.0)]]
    links.append([(2, 1, 0.0), (3, 3, 0.0)])
    prompts = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7], [1, 2, 3, 4, 7], [1, 2, 3, 4]]
    layers, heads = [1, 3], [0, 3]
    together = lm.forward(tiny, prompts, weigh=lm.Weigh(layers, links, heads)).logits
    for prompt, each, ours in zip(prompts, links, together, strict=True):
        factors = torch.ones(len(prompt), len(prompt))
        for q, k, factor in each:
            factors[q, k] = factor
        attend = [lm.Attend(layer, times(factors, heads)) for layer in layers]
        assert_close(ours[None], lm.forward(tiny, [prompt], attend=attend).logits, **EXACT)
    free = lm.forward(tiny, prompts).logits
    assert_close(together[1], free[1], **EXACT)
    assert (together - free)[[0, 2, 3, 4]].abs().amax(1).min() > 3e-4


def test_a_cut_hides_a_token(tiny):
    """What only one token could see of another it does not know any more."""
    cut = lm.Weigh(range(tiny.n_layers), [[(3, 1, 0.0), (2, 1, 0.0)]] * 2)
    one, other = lm.forward(tiny, [[1, 2, 3, 4], [1, 9, 3, 4]], weigh=cut).logits
    assert_close(one, other, **EXACT)
    first = lm.Weigh([0], [[(3, 1, 0.0), (2, 1, 0.0)]] * 2)
    one, other = lm.forward(tiny, [[1, 2, 3, 4], [1, 9, 3, 4]], weigh=first).logits
    assert (one - other).abs().max() > 1e-3


def test_a_readout_of_another_dtype_or_shape(llama):
    def double(q, k, v, mask):
        return readouts.softmax(q.double(), k.double(), v.double(), mask)

    same = lm.forward(llama, PROMPTS, attend=lm.Attend(1, double)).logits
    assert_close(same, last_logits(llama, PROMPTS), **EXACT)
    with pytest.raises(ValueError, match=r"readout: got outputs .* expected"):
        lm.forward(llama, PROMPTS, attend=lm.Attend(1, lambda q, k, v, m: (q[..., :1], None)))


def test_hull_in_place_of_softmax(llama):
    readout = readouts.onto_hull
    together = lm.forward(llama, PROMPTS, attend=lm.Attend(1, readout)).logits
    alone = torch.cat([lm.forward(llama, [p], attend=lm.Attend(1, readout)).logits for p in PROMPTS])
    assert_close(together, alone, **EXACT)
