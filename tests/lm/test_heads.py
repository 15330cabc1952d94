"""Heads of pretrained models: silenced, and read through the matrices by which they write."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib import lm

TEXT = "one two three one two"


def test_what_heads_write_through_their_matrices_is_what_attention_adds(tiny):
    """Zeroing all heads of a layer changes the output of its projection by the sum of what they write."""
    prompt = tiny.prompt(TEXT)
    layer = 2
    out = lm.forward(tiny, [prompt], lm.Read(heads=[layer])).heads[0, 0, 0]  # (heads, head_dim)
    matrices = lm.output_projections(tiny)[layer]
    (projection,) = (
        module
        for name, module in tiny.model.named_modules()
        if name.endswith(
            tuple(f".{layer}.{end}" for end in ("self_attn.o_proj", "attn.c_proj", "attention.dense"))
        )
    )
    written = torch.einsum("hk,hkd->d", out, matrices)
    bias = 0 if projection.bias is None else projection.bias
    torch.testing.assert_close(written + bias, projection(out.flatten()), atol=1e-5, rtol=1e-4)


def test_the_unembedding_gives_the_logits_up_to_the_scale_of_the_last_norm(tiny):
    seen = lm.forward(tiny, [tiny.prompt(TEXT)], lm.Read(residual=[tiny.n_layers - 1]))
    ours = lm.unembedding(tiny) @ seen.residual[0, 0, 0]
    theirs = seen.logits[0]
    norm = next(
        m for n, m in tiny.model.base_model.named_children() if n in ("norm", "ln_f", "final_layer_norm")
    )
    if isinstance(norm, nn.LayerNorm):
        theirs = theirs - tiny.model.get_output_embeddings().weight @ norm.bias
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    assert torch.cosine_similarity(ours, theirs, dim=0) > 1 - 1e-5
    assert (ours @ theirs) > 0


def test_an_ablated_head_returns_what_it_is_told(tiny):
    prompt = tiny.prompt(TEXT)
    places = range(len(prompt))
    read = lm.Read(heads=range(tiny.n_layers), positions=places)
    means = lm.head_means(tiny, [prompt])
    heads = [(1, 0), (3, 2)]
    zeroed = lm.forward(tiny, [prompt], read, lm.ablation(heads)).heads[0]
    meant = lm.forward(tiny, [prompt], read, lm.ablation(heads, means)).heads[0]
    free = lm.forward(tiny, [prompt], read).heads[0]
    for layer, head in heads:
        assert (zeroed[layer, :, head] == 0).all()
        torch.testing.assert_close(meant[layer, :, head], means[layer, head].expand(len(prompt), -1))
    torch.testing.assert_close(zeroed[0], free[0])  # heads below do what they did
    assert not torch.allclose(zeroed[2], free[2])


def test_means_leave_the_document_start_out(llama):
    prompts = [llama.prompt("abc"), llama.prompt("xyz and more")]
    free = lm.forward(llama, prompts, lm.Read(heads=range(llama.n_layers), positions=range(1, 4))).heads
    torch.testing.assert_close(lm.head_means(llama, prompts), free.mean((0, 2)))
    with pytest.raises(ValueError, match="behind the document start"):
        lm.head_means(llama, [llama.document_start, llama.prompt("abc")])


def test_losses_while_heads_are_ablated(llama):
    prompt = llama.prompt(TEXT)
    write = lm.ablation([(0, 1), (2, 3)])
    losses = lm.token_losses(llama, [prompt], write=write)[0]
    logits = lm.forward(llama, [prompt[:k] for k in range(1, len(prompt))], write=write).logits
    expected = -logits.log_softmax(-1)[range(len(prompt) - 1), prompt[1:]]
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(losses, lm.token_losses(llama, [prompt])[0])


def test_names_not_known_are_told(llama, monkeypatch):
    monkeypatch.setattr("course_lib.lm.heads.OUTPUT_PROJECTIONS", ("mixer.out",))
    with pytest.raises(ValueError, match=r"layer 0 of .*mixer\.out"):
        lm.output_projections(llama)
    monkeypatch.setattr("course_lib.lm.heads.LAST_NORMS", ("end",))
    with pytest.raises(ValueError, match="expected one of end behind the last layer"):
        lm.unembedding(replace(llama))


def test_strongest_heads_come_highest_first():
    score = torch.tensor([[0.1, 0.9, 0.0, 0.3], [0.8, 0.2, 0.0, 0.0]])
    assert lm.strongest_heads(score, 3) == [(0, 1), (1, 0), (0, 3)]


def test_random_heads_are_drawn_from_the_others(llama):
    spared = [(0, 0), (1, 1)]
    drawn = lm.random_heads(llama, 14, 0, without=spared)
    assert len(set(drawn)) == 14
    assert not set(drawn) & set(spared)
    assert drawn != lm.random_heads(llama, 14, 1, without=spared)
