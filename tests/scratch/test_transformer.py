"""The small transformer is GPT-2 in its arithmetic, sees only the past, and learns with every readout."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from course_lib import readouts
from course_lib.scratch.transformer import Config, Transformer, logits, turned

CONFIG = Config(vocab=11, length=9, layers=3, heads=4, d=32)
TOKENS = torch.randint(11, (5, 9), generator=torch.Generator().manual_seed(0))


def seeded(config=CONFIG, readout=readouts.softmax):
    torch.manual_seed(0)
    return Transformer(config, readout)


def test_it_computes_what_gpt2_computes():
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=9, n_layer=3, n_head=4, n_embd=32)).eval()
    ours = seeded()
    names = {"transformer.wte": "tokens", "transformer.wpe": "positions", "transformer.ln_f": "norm"}
    parts = {
        "ln_1": "norm_attention",
        "ln_2": "norm_mlp",
        "attn.c_attn": "attention.queries_keys_values",
        "attn.c_proj": "attention.out",
        "mlp.c_fc": "up",
        "mlp.c_proj": "down",
    }
    names |= {f"transformer.h.{i}.{a}": f"blocks.{i}.{b}" for i in range(3) for a, b in parts.items()}
    state = {}
    for name, value in theirs.state_dict().items():
        part, _, kind = name.rpartition(".")
        if part != "lm_head":  # tied
            value = torch.randn_like(value) * 0.3
            theirs.get_parameter(name).data = value
            state[f"{names[part]}.{kind}"] = value.T if ".c_" in name and kind == "weight" else value
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=1e-4)


def test_rotary_positions_are_those_of_llama():
    q, k = torch.randn(2, 3, 4, 9, 8, generator=torch.Generator().manual_seed(0))  # (batch, heads, T, d)
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 1000.0}
    )
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(9)[None])
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    for ours, expected in zip((turned(q), turned(k)), theirs, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_rotary_model_knows_distances_only():
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    scores = turned(q.expand(9, 8)) @ turned(k.expand(9, 8)).T
    for distance in range(-8, 9):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-4)
    assert scores[0].std() > 0.1
    rotary = seeded(replace(CONFIG, rotary=True))
    assert not any("positions" in name for name, _ in rotary.named_parameters())
    same = torch.zeros(1, 9, dtype=torch.long)
    torch.testing.assert_close(rotary(same)[0], rotary(same)[0, :1].expand(9, -1), atol=1e-5, rtol=1e-4)


def test_logits_are_those_of_the_model_without_gradients():
    model = seeded()
    assert not logits(model, TOKENS).requires_grad
    torch.testing.assert_close(logits(model, TOKENS), model(TOKENS))


@pytest.mark.parametrize("readout", [readouts.softmax, readouts.sparsemax, readouts.onto_hull])
def test_the_future_is_not_seen(readout):
    model = seeded(readout=readout)
    changed = TOKENS.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 11
    difference = (model(TOKENS) - model(changed)).abs().amax((0, 2))
    assert difference[:6].max() < 1e-5
    assert (difference[6:] > 1e-3).all()
    torch.testing.assert_close(model(TOKENS[:, :4]), model(TOKENS)[:, :4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "readout",
    [
        readouts.softmax,
        readouts.distance_softmax,
        readouts.sparsemax,
        readouts.unit_norm,
        readouts.onto_hull,
        partial(readouts.onto_hull, max_support=2),
    ],
)
def test_it_learns_to_copy_the_token_before_with_every_readout(readout):
    model = seeded(Config(vocab=5, length=12, layers=1, heads=2, d=16), readout)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        tokens = torch.randint(5, (32, 12), generator=generator)
        logits = model(tokens)[:, 1:]  # says at each position which token came before
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(5.0).log().item(), abs=0.1)
    assert losses[-1] < 0.8


def test_bad_input():
    with pytest.raises(ValueError, match="d=30: expected a multiple of heads=4"):
        Transformer(Config(vocab=5, length=4, heads=4, d=30))
    with pytest.raises(ValueError, match="rotary=True: expected heads of even width, got 3"):
        Transformer(Config(vocab=5, length=4, heads=4, d=12, rotary=True))
    with pytest.raises(ValueError, match="tokens: 10 positions, expected at most 9"):
        seeded()(torch.zeros(1, 10, dtype=torch.long))
