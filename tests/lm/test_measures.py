"""Losses, queries and keys against plain forwards of transformers."""

import pytest
import torch
from torch.testing import assert_close

from course_lib import lm, readouts


def test_losses_are_those_of_a_plain_forward(tiny):
    prompts = [[7, 1, 2, 3, 9], [7, 1, 2, 4, 9]]
    with torch.no_grad():
        logits = tiny.model(torch.tensor(prompts)).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.tensor(prompts)[:, 1:].flatten(), reduction="none"
    )
    assert_close(lm.token_losses(tiny, prompts).flatten(), expected, atol=1e-4, rtol=0)
    uniform = lm.token_losses(tiny, prompts, [lm.Attend(layer, readouts.uniform) for layer in range(4)])
    assert (uniform[:, 0] - expected.view(2, 4)[:, 0]).abs().max() < 1e-4  # the first token sees only itself
    assert (uniform - expected.view(2, 4)).abs().max() > 3e-4


@pytest.mark.parametrize("prompts", [[[7, 1, 2], [7, 1]], [[7], [8]]])
def test_losses_need_equal_lengths(llama, prompts):
    with pytest.raises(ValueError, match="prompts: expected equal lengths of two tokens or more"):
        lm.token_losses(llama, prompts)


@pytest.mark.parametrize(
    ("prompts", "message"), [([], "prompts is empty"), ([[7, 1, -100]], "outside"), ([[7, 10**6]], "outside")]
)
def test_losses_need_tokens_of_the_model(llama, prompts, message):
    with pytest.raises(ValueError, match=message):
        lm.token_losses(llama, prompts)


def test_queries_and_keys_give_the_attention_of_the_model(tiny):
    prompt = list(range(7, 12))
    queries, keys = lm.queries_and_keys(tiny, prompt, [2, 1])
    assert queries.shape == keys.shape
    read = lm.Read(attention=[2, 1], positions=list(range(5)))
    expected = lm.forward(tiny, [prompt], read).attention[0].transpose(1, 2)  # (layers, heads, T, T)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    assert_close(readouts.softmax(queries, keys, keys, mask)[1], expected, atol=1e-5, rtol=0)


def test_keys_are_those_of_the_projection(llama):
    caught = {}
    layers = llama.model.model.layers
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _, __, out, i=i: caught.update({i: out[0]}))
        for i, layer in enumerate(layers)
    ]
    _, keys = lm.queries_and_keys(llama, [7, 1, 2, 3], range(llama.n_layers))
    for hook in hooks:
        hook.remove()
    for i in range(llama.n_layers):
        norms = caught[i].unflatten(-1, (2, -1)).norm(dim=-1).T  # rotations keep lengths
        assert_close(keys[i].norm(dim=-1), norms.repeat_interleave(2, 0))
