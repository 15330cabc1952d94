"""The engine against plain forwards of transformers, one prompt at a time, and against hand-written hooks."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import EXACT, PROMPTS, Hooked, last_logits, plain
from torch.testing import assert_close

from course_lib import lm, readouts
from course_lib.lm.packing import batches, pack


def test_logits_equal_a_plain_forward(tiny):
    assert_close(lm.forward(tiny, PROMPTS).logits, last_logits(tiny, PROMPTS), **EXACT)


def test_small_batches_give_the_same_logits(tiny):
    assert_close(lm.forward(tiny, PROMPTS, max_tokens=9).logits, last_logits(tiny, PROMPTS), **EXACT)


def test_long_prompts_and_many_siblings(tiny):
    generator = torch.Generator().manual_seed(1)
    stem = torch.randint(0, 200, (70,), generator=generator).tolist()
    tails = torch.randint(0, 200, (40, 6), generator=generator).tolist()
    prompts = [stem + tail[: 1 + i % 6] for i, tail in enumerate(tails)]
    assert_close(lm.forward(tiny, prompts).logits, last_logits(tiny, prompts), **EXACT)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12))
def test_any_set_of_prompts(llama, prompts):
    assert_close(lm.forward(llama, prompts).logits, last_logits(llama, prompts), **EXACT)


@given(prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12))
def test_packing_computes_each_prefix_once(prompts):
    packing = pack(prompts)
    prefixes = {tuple(prompt[: t + 1]) for prompt in prompts for t in range(len(prompt))}
    assert len(packing.tokens) == len(prefixes)
    for prompt, path in zip(prompts, packing.paths, strict=True):
        assert packing.tokens[path].tolist() == prompt
        assert packing.depth[path].tolist() == list(range(len(prompt)))


@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12),
    max_tokens=st.integers(12, 30),
    extra=st.integers(0, 5),
)
def test_batches_keep_to_the_budget_and_leave_nobody_out(prompts, max_tokens, extra):
    groups = batches(prompts, max_tokens, extra)
    assert sorted(i for group in groups for i in group) == list(range(len(prompts)))
    for group in groups:
        rows = len(pack([prompts[i] for i in group]).tokens) + extra * len(group)
        assert rows <= max_tokens or len(group) == 1


def test_groups_are_cut_where_least_is_shared():
    prompts = [[root] * 20 + [leaf] for root in (1, 2, 3) for leaf in range(10)]  # 30 rows for each root
    roots = [{prompts[i][0] for i in group} for group in batches(prompts, 50)]
    assert roots == [{1}, {2}, {3}]
    assert [len(group) for group in batches(prompts, 60)] == [20, 10]
    assert [len(group) for group in batches(prompts[:10], 25)] == [
        5,
        5,
    ]  # everywhere alike: as late as possible
    late = [[0] * 9 + [1], [1] * 30, [1] * 30 + [2], [1] * 30 + [3]]
    assert [len(group) for group in batches(late, 41)] == [3, 1]  # not before half of the rows are in


def test_the_real_model_is_exact(real):
    texts = ["hot→cold\nbig→small\nfast→", "hot→cold\nbig→small\nold→", "The capital of France is", "x→"]
    prompts = [real.prompt(text) for text in texts]
    assert_close(lm.forward(real, prompts).logits, last_logits(real, prompts), **EXACT)


def test_reads_equal_what_transformers_returns(tiny):
    positions = [[-1, 0] for _ in PROMPTS]
    positions[1] = [3, 5]
    read = lm.Read(residual=[0, 2, 3], attention=[0, 3], heads=[1], positions=positions)
    out = lm.forward(tiny, PROMPTS, read)
    tiny.model.set_attn_implementation("eager")
    norm = next(m for name, m in tiny.model.base_model.named_children() if "norm" in name or name == "ln_f")
    for i, prompt in enumerate(PROMPTS):
        reference = plain(tiny, prompt, output_hidden_states=True, output_attentions=True)
        for p, t in enumerate(positions[i]):
            assert_close(out.residual[i, 0, p], reference.hidden_states[1][0, t], **EXACT)
            assert_close(out.residual[i, 1, p], reference.hidden_states[3][0, t], **EXACT)
            # transformers' last hidden state has passed the final norm
            with torch.no_grad():
                assert_close(norm(out.residual[i, 2, p]), reference.hidden_states[4][0, t], **EXACT)
            for j, layer in enumerate((0, 3)):
                weights = reference.attentions[layer][0, :, t]
                assert_close(out.attention[i, j, p, :, : len(prompt)], weights, **EXACT)
                assert not out.attention[i, j, p, :, len(prompt) :].any()
    tiny.model.set_attn_implementation("sdpa")


def test_logits_at_positions(tiny):
    read = lm.Read(logits=True, positions=[0, -1])
    out = lm.forward(tiny, PROMPTS, read, max_tokens=20)
    assert_close(out.logits_at[:, 1], out.logits, **EXACT)
    assert_close(out.logits_at[:, 0], last_logits(tiny, [prompt[:1] for prompt in PROMPTS]), **EXACT)
    assert_close(out.logits, last_logits(tiny, PROMPTS), **EXACT)
    assert lm.forward(tiny, PROMPTS[:1]).logits_at is None


def test_head_outputs_are_what_enters_the_projection(tiny):
    out = lm.forward(tiny, PROMPTS, lm.Read(heads=[0, 2], positions=[-1, 0]))
    for j, layer in enumerate((0, 2)):
        for head in range(tiny.n_heads):
            for i, prompt in enumerate(PROMPTS):
                seen = []
                with Hooked(tiny, layer, lambda x, seen=seen: seen.append(x.clone()), head):
                    plain(tiny, prompt)
                assert_close(out.heads[i, j, :, head], seen[0][[-1, 0]], **EXACT)


def assign(rows, value, add=False):
    def change(x):
        x[rows] = x[rows] + value if add else value

    return change


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("position", [-1, 0, None])
@pytest.mark.parametrize("kind", ["number", "vector", "one per prompt"])
def test_a_write_equals_a_hook(tiny, head, add, position, kind):
    config = tiny.model.config
    width = config.hidden_size
    if head is not None:
        width = config.to_dict().get("head_dim") or config.hidden_size // tiny.n_heads
    torch.manual_seed(2)
    value = {"number": 0.0, "vector": torch.randn(width), "one per prompt": torch.randn(len(PROMPTS), width)}[
        kind
    ]
    write = lm.Write(1, value, position=position, head=head, add=add)
    logits = lm.forward(tiny, PROMPTS, write=write).logits
    for i, prompt in enumerate(PROMPTS):
        own = value[i] if kind == "one per prompt" else value
        rows = slice(None) if position is None else position
        with Hooked(tiny, 1, assign(rows, own, add), head):
            assert_close(logits[i], plain(tiny, prompt).logits[0, -1], **EXACT)


def test_writes_at_a_position_of_each_prompt_and_reads_of_what_was_written(llama):
    positions = [len(prompt) // 2 for prompt in PROMPTS]
    vectors = torch.randn(len(PROMPTS), 32)
    writes = [
        lm.Write(1, vectors, position=positions),
        lm.Write(1, torch.ones(32), position=positions, add=True),
    ]
    out = lm.forward(llama, PROMPTS, lm.Read(residual=[1], positions=[[t] for t in positions]), writes)
    assert_close(out.residual[:, 0, 0], vectors + 1, **EXACT)
    for i, prompt in enumerate(PROMPTS):
        with Hooked(llama, 1, assign(positions[i], vectors[i] + 1)):
            assert_close(out.logits[i], plain(llama, prompt).logits[0, -1], **EXACT)


def test_a_write_does_not_leak_into_prompts_that_share_the_token(llama):
    prompts = [[1, 2, 3], [1, 2, 3, 4]]
    out = lm.forward(llama, prompts, write=lm.Write(0, torch.ones(32), position=[-1, 0]))
    with Hooked(llama, 0, assign(-1, torch.ones(32))):
        assert_close(out.logits[0], plain(llama, prompts[0]).logits[0, -1], **EXACT)
    with Hooked(llama, 0, assign(0, torch.ones(32))):
        assert_close(out.logits[1], plain(llama, prompts[1]).logits[0, -1], **EXACT)


@pytest.mark.parametrize("kind", ["number", "vector", "one per prompt"])
@pytest.mark.parametrize("position", [None, -1, "each"])
def test_a_write_in_some_prompts_leaves_the_others_as_they_are(llama, kind, position):
    prompts = [[1, 2, 3], [1, 2, 3], [1, 2, 3, 4], [1, 5, 3], [1, 2, 3]]
    chosen = [4, 1, 3]
    value = {"number": 0.5, "vector": torch.randn(32), "one per prompt": torch.randn(3, 32)}[kind]
    position = [2, 0, 1] if position == "each" else position
    write = lm.Write(1, value, position=position, prompts=chosen)
    plain_logits = lm.forward(llama, prompts).logits
    alone = lm.forward(
        llama, [prompts[i] for i in chosen], write=lm.Write(1, value, position=position)
    ).logits
    for tokens in (9, 2048):
        found = lm.forward(llama, prompts, write=write, max_tokens=tokens).logits
        assert_close(found[chosen], alone, **EXACT)
        assert_close(found[[0, 2]], plain_logits[[0, 2]], **EXACT)
        assert (found[1] - plain_logits[1]).abs().max() > 0.01


def test_a_sweep_equals_one_write_per_layer(tiny):
    vectors = torch.randn(tiny.n_layers, len(PROMPTS), 32)
    swept = lm.sweep_layers(tiny, PROMPTS, vectors)
    for layer in range(tiny.n_layers):
        written = lm.forward(tiny, PROMPTS, write=lm.Write(layer, vectors[layer])).logits
        assert_close(swept[layer], written, **EXACT)
    assert_close(lm.sweep_layers(tiny, PROMPTS, vectors, max_tokens=12), swept, **EXACT)


def test_the_model_is_left_as_it_was(llama):
    before = llama.model.config._attn_implementation
    reference = last_logits(llama, PROMPTS)
    lm.forward(llama, PROMPTS, write=lm.Write(0, 0.0, position=None))
    lm.sweep_layers(llama, PROMPTS, torch.zeros(4, len(PROMPTS), 32))
    assert llama.model.config._attn_implementation == before
    assert_close(last_logits(llama, PROMPTS), reference, atol=0, rtol=0)


def test_bfloat16(llama):
    half = lm.LanguageModel("half", llama.model.to(torch.bfloat16), llama.tokenizer)
    assert lm.forward(half, PROMPTS).logits.dtype == torch.bfloat16
    llama.model.to(torch.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": [[1], []]}, r"prompts\[1\] has 0 tokens"),
        ({"prompts": [[1] * 200]}, r"prompts\[0\] has 200 tokens: expected 1 to 128"),
        ({"prompts": [[1, 10**6]]}, r"prompts\[0\] has a token outside"),
        ({"prompts": [[1, -1]]}, r"prompts\[0\] has a token outside"),
        ({"read": lm.Read(residual=[4])}, "layer 4: expected 0 … 3"),
        ({"read": lm.Read(attention=[-1])}, "layer -1: expected 0 … 3"),
        ({"read": lm.Read(residual=[0], positions=[5])}, r"position 5 is outside prompts\[0\] of 2 tokens"),
        ({"read": lm.Read(residual=[0], positions=[[0]])}, r"positions: shape \(1, 1\)"),
        ({"write": lm.Write(9, 0.0)}, "layer 9"),
        ({"write": lm.Write(0, 0.0, head=4)}, "head 4: expected 0 … 3"),
        ({"write": lm.Write(0, 0.0, position=-3)}, r"position -3 is outside prompts\[0\]"),
        ({"write": lm.Write(0, 0.0, position=[0, 0, 0])}, "position"),
        ({"write": lm.Write(0, 0.0, prompts=[0, 2])}, r"prompts=\[0, 2\]: expected different numbers 0 … 1"),
        ({"write": lm.Write(0, 0.0, prompts=[1, 1])}, r"prompts=\[1, 1\]: expected different numbers"),
        ({"write": lm.Write(0, 0.0, prompts=[])}, r"prompts=\[\]: expected different numbers"),
        ({"write": lm.Write(0, torch.zeros(7))}, r"value: shape \(7,\), expected \(32,\) or \(2, 32\)"),
        ({"attend": lm.Attend(4, readouts.uniform)}, "layer 4: expected 0 … 3"),
        ({"attend": lm.Attend(0, readouts.uniform, heads=[1, 4])}, "head 4: expected 0 … 3"),
        ({"attend": lm.Attend(0, "softmax")}, "readout: expected a function, got 'softmax'"),
        ({"weigh": lm.Weigh([4], [[], []])}, "layer 4: expected 0 … 3"),
        ({"weigh": lm.Weigh([0], [[], []], heads=[4])}, "head 4: expected 0 … 3"),
        ({"weigh": lm.Weigh([0], [[]])}, "links: got 1 lists, expected one for each of 2 prompts"),
        ({"weigh": lm.Weigh([0], [[], [(0, 1, 0.5)]])}, r"links\[1\] has \(0, 1, 0.5\)"),
        ({"weigh": lm.Weigh([0], [[], [(1, 0, -1.0)]])}, r"links\[1\] has \(1, 0, -1.0\)"),
        ({"weigh": lm.Weigh([0], [[(2, 0, 1.0)], []])}, r"links\[0\] has \(2, 0, 1.0\)"),
        (
            {"weigh": lm.Weigh([0], [[], [(-1, 0, 0), (-1, 1, 0)]])},
            r"links\[1\] cuts all that position 1 sees",
        ),
        (
            {"weigh": lm.Weigh([0, 2], [[], []]), "attend": lm.Attend(2, readouts.uniform)},
            "attend and weigh: layer 2 is in both",
        ),
        (
            {"write": lm.Write(0, torch.zeros(32), head=0)},
            r"value: shape \(32,\), expected \(8,\) or \(2, 8\)",
        ),
    ],
)
def test_bad_input(llama, arguments, message):
    with pytest.raises(ValueError, match=message):
        lm.forward(llama, **{"prompts": [[1, 2], [3, 4]], **arguments})


def test_a_sweep_names_the_shape_it_expects(llama):
    with pytest.raises(ValueError, match=r"vectors: shape \(4, 2, 5\), expected .* \(4, 1, 32\)"):
        lm.sweep_layers(llama, [[1]], torch.zeros(4, 2, 5))


def test_an_architecture_that_attends_its_own_way_is_refused(llama, monkeypatch):
    from transformers.models.llama import modeling_llama

    def own_way(*args, **kwargs):
        return modeling_llama.eager_attention_forward

    monkeypatch.setattr(modeling_llama.ALL_ATTENTION_FUNCTIONS, "get_interface", own_way)
    with pytest.raises(ValueError, match="does not attend through"):
        lm.forward(llama, [[1, 2]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu(tmp_path):
    import families

    folder = str(families.make("gemma3", tmp_path))
    cpu, gpu = lm.load(folder, device="cpu"), lm.load(folder)
    assert gpu.device.type == "cuda"
    vectors = torch.randn(4, len(PROMPTS), 32)
    assert_close(lm.forward(gpu, PROMPTS).logits.cpu(), lm.forward(cpu, PROMPTS).logits, atol=2e-3, rtol=0)
    swept = lm.sweep_layers(gpu, PROMPTS, vectors).cpu()
    assert_close(swept, lm.sweep_layers(cpu, PROMPTS, vectors), atol=2e-3, rtol=0)
    assert np.isfinite(swept.numpy()).all()
