"""Task vectors: reading and writing task vectors, the protocol, intervals, distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_distances
from torch.testing import assert_close

from course_lib import fewshot, stats
from course_lib.data import tasks
from course_lib.data.tasks import Task
from course_lib.mechanisms import task_vectors as tv

PAIRS = tuple((f"x{i}", f"{chr(97 + i % 7)}{i}") for i in range(30))
TASK = Task("numbers", "custom", PAIRS)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=25)
def test_demonstrations_dummy_and_queries_are_all_different(shots, n_cases, n_queries, seed):
    cases = tv.draw(TASK, shots, n_cases, n_queries, seed)
    assert len(cases) == n_cases
    for case in cases:
        xs = [x for x, _ in [*case.demonstrations, *case.queries]] + [case.dummy]
        assert len(set(xs)) == len(xs) == shots + n_queries + 1
        assert set(case.demonstrations) | set(case.queries) <= set(PAIRS)
    assert cases == tv.draw(TASK, shots, n_cases, n_queries, seed)


def test_cases_are_drawn_independently():
    cases = tv.draw(TASK, 5, 40, 5)
    assert len({tuple(case.demonstrations) for case in cases}) == 40
    assert cases != tv.draw(TASK, 5, 40, 5, seed=1)


def test_too_few_pairs_and_no_queries_are_refused():
    with pytest.raises(ValueError, match=r"'numbers' has 30 pairs here: 20 demonstrations.* need 31"):
        tv.draw(TASK, 20, 1, 10)
    with pytest.raises(ValueError, match="n_queries=0: expected at least 1"):
        tv.draw(TASK, 5, 1, 0)


def hidden(model, prompt):
    """(L + 1, T, d) from transformers; the last one is behind the final norm."""
    with torch.no_grad():
        out = model.model(input_ids=torch.tensor([prompt]), output_hidden_states=True, use_cache=False)
    return torch.stack(out.hidden_states)[:, 0]


def test_task_vectors_are_the_residual_stream_at_the_dummys_last_token(tiny):
    cases = tv.draw(TASK, 3, 2, 1)
    found = tv.task_vectors(tiny, cases)
    assert found.shape == (2, tiny.n_layers, 32)
    for vector, case in zip(found, cases, strict=True):
        text = "".join(f"{x}→{y}\n" for x, y in case.demonstrations) + case.dummy + "→"
        expected = hidden(tiny, [*tiny.document_start, *tiny.encode(text)])[1:-1, -1]
        assert_close(vector[:-1], expected, atol=1e-4, rtol=1e-4)
        assert_close(tv.task_vector(tiny, case.demonstrations, case.dummy), vector, atol=1e-4, rtol=1e-4)


def test_a_dummy_among_the_demonstrations_is_refused(llama):
    with pytest.raises(ValueError, match="dummy='x1' is among the demonstrations"):
        tv.task_vector(llama, PAIRS[:3], "x1")


def patched_logits(model, prompt, position, layer, vector):
    """Logits of transformers with a hook that replaces one token behind one layer."""

    def replace(module, args, output):
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, position] = vector
        return output

    blocks = next(
        m
        for m in model.model.base_model.modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == model.n_layers
    )
    handle = blocks[layer].register_forward_hook(replace)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]
    handle.remove()
    return logits


class Ids(fewshot.Format):
    """Answers are given as token ids."""

    def tokens(self, model, demonstrations, query, y=""):
        prompt, _ = super().tokens(model, demonstrations, query)
        return prompt, [int(token) for token in y.split()]


@pytest.mark.parametrize(("scoring", "expected"), [("first", [1, 1, 0, 0]), ("full", [1, 0, 0, 0])])
@pytest.mark.parametrize("demonstrations", [False, True])
def test_patched_answers_equal_a_hook_of_transformers(tiny, scoring, expected, demonstrations, monkeypatch):
    monkeypatch.setattr(tv, "PROMPTS_AT_A_TIME", 5)  # several parts
    layer, vectors = 1, 2 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    cases = []
    for case, vector in zip(tv.draw(TASK, 2, 3, 1), vectors, strict=True):
        x = case.queries[0][0]
        prompt, _ = Ids().tokens(tiny, case.demonstrations if demonstrations else [], x)
        a = int(patched_logits(tiny, prompt, len(prompt) - 1, layer, vector)[-1].argmax())
        b = int(patched_logits(tiny, [*prompt, a], len(prompt) - 1, layer, vector)[-1].argmax())
        answers = [f"{a} {b}", f"{a} {b ^ 1}", f"{a ^ 1} {b}", f"{a ^ 1}"]
        cases.append(fewshot.Case(case.demonstrations, [(x, answer) for answer in answers], case.dummy))
    options = {"demonstrations": demonstrations, "scoring": scoring, "format": Ids()}
    found = tv.answered(tiny, cases, [None, vectors, vectors.flip(0)], layer, **options)
    assert found.shape == (3, 3, 4)
    assert_close(found[1], torch.tensor([expected] * 3).float())
    assert_close(found[:1], tv.answered(tiny, cases, **options))


def test_an_answer_is_right_only_if_all_of_it_is(real):
    case = fewshot.Case(
        [("France", "Paris"), ("Italy", "Rome")], [("Japan", "Tokyo"), ("Japan", "Tok yo")], "Spain"
    )
    assert len(real.encode("Tok yo")) > 1
    assert tv.answered(real, [case], demonstrations=True, scoring="full")[0, 0, 1] == 0


def test_writing_what_is_there_changes_nothing(llama):
    cases = tv.draw(TASK, 2, 2, 1)
    prompts = [[*llama.document_start, *llama.encode(f"{case.queries[0][0]}→")] for case in cases]
    there = torch.stack([hidden(llama, prompt)[2, -1] for prompt in prompts])
    own = [fewshot.Case(t.demonstrations, [(t.queries[0][0], y)], t.dummy) for t in cases for y in "abc"]
    plain, patched = tv.answered(llama, own, [None, there.repeat_interleave(3, 0)], layer=1)
    assert_close(patched, plain)


def test_a_sweep_equals_a_patch_in_each_layer(tiny, monkeypatch):
    monkeypatch.setattr(tv, "PROMPTS_AT_A_TIME", 5)
    vectors = 2 * torch.randn(3, tiny.n_layers, 32, generator=torch.Generator().manual_seed(1))
    letters = [(x, y) for x in ("q", "rs") for y in "abcdefghij"]  # single bytes: some are right
    cases = [fewshot.Case(PAIRS[:2], letters, "d")] * 3
    swept = tv.sweep(tiny, cases, vectors)
    assert swept.shape == (tiny.n_layers, 3, 20)
    each = [tv.answered(tiny, cases, [vectors[:, layer]], layer)[0] for layer in range(tiny.n_layers)]
    assert_close(swept, torch.stack(each))


def test_options_that_make_no_sense_are_refused(llama):
    cases = tv.draw(TASK, 2, 1, 1)
    with pytest.raises(ValueError, match="layer=None: expected the layer after which"):
        tv.answered(llama, cases, [torch.zeros(1, 32)])
    with pytest.raises(ValueError, match='scoring=\'last\': expected "first" or "full"'):
        tv.answered(llama, cases, scoring="last")
    unequal = [*cases, fewshot.Case(PAIRS[:2], PAIRS[3:5], "d")]
    with pytest.raises(ValueError, match="all with the same number of queries"):
        tv.answered(llama, unequal)


def test_a_new_task_is_evaluated_in_one_call(llama, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in PAIRS))
    task = tasks.read(path)
    found = tv.evaluate(llama, task, shots=3, n_cases=4, n_queries=2)
    assert (found.task, found.category) == ("mine", "custom")
    assert found.by_layer.shape == (llama.n_layers,)
    assert found.by_layer[found.layer] == found.by_layer.max()
    assert found.vectors.shape == (4, llama.n_layers, 32)
    assert {kind: hits.shape for kind, hits in found.hits.items()} == dict.fromkeys(
        ("regular", "hypothesis", "baseline"), (4, 2)
    )
    for kind in found.hits:
        assert getattr(found, kind).value == found.hits[kind].mean()


def test_evaluation_measures_each_procedure_on_the_test_half(real):
    dev, test = tasks.load("to_lower").split()
    cases, tried = tv.draw(test, 3, 4, 3), tv.draw(dev, 3, 2, 3)
    found = tv.evaluate(real, tasks.load("to_lower"), shots=3, n_cases=4, n_queries=3)
    by_layer = tv.sweep(real, tried, tv.task_vectors(real, tried)).mean((1, 2))
    assert by_layer.max() > by_layer[0]
    assert_close(found.by_layer, by_layer)
    assert found.layer == by_layer.argmax()
    theta, regular = tv.task_vectors(real, cases), tv.answered(real, cases, demonstrations=True)[0]
    patched, bare = tv.answered(real, cases, [theta[:, found.layer], None], found.layer)
    assert 0.3 < regular.mean() < 1  # neither is told by a constant
    assert 0.2 < patched.mean() < 1
    assert_close(found.vectors, theta, atol=1e-3, rtol=1e-3)
    assert_close(found.hits, {"regular": regular, "hypothesis": patched, "baseline": bare})


def test_few_pairs_make_fewer_queries(llama):
    small = Task("small", "custom", PAIRS[:15])
    found = tv.evaluate(llama, small, shots=4, n_cases=2, n_queries=9)
    assert found.hits["regular"].shape == (2, 2)
    with pytest.raises(ValueError, match="'small' has 8 pairs here"):
        tv.evaluate(llama, small, shots=7)


@pytest.mark.parametrize(("scoring", "share"), [("first", 1.0), ("full", 0.3)])
def test_the_majority_is_counted_as_answers_are_scored(llama, scoring, share):
    pairs = tuple((f"x{i}", "na" if i % 10 < 3 else f"n{chr(98 + i % 23)}") for i in range(46))
    task = Task("n", "custom", pairs)
    _, test = task.split()
    expected = 1.0 if scoring == "first" else sum(y == "na" for _, y in test.pairs) / len(test.pairs)
    found = tv.evaluate(llama, task, shots=2, n_cases=2, n_queries=1, scoring=scoring)
    assert found.majority == expected
    assert abs(expected - share) < 0.2


def evaluation(hits):
    return tv.Evaluation("t", "c", 0, torch.zeros(1), {"regular": hits}, 0.0, torch.zeros(0))


def test_the_average_adds_the_tasks_errors_as_independent():
    a, b = torch.tensor([[1.0, 1], [0, 1], [1, 1]]), torch.tensor([[0.0], [0.0], [1.0]])
    x, y = stats.share_interval(a), stats.share_interval(b)
    found = tv.average([evaluation(a), evaluation(b)], "regular")
    mean = (5 / 6 + 1 / 3) / 2
    low, high = math.hypot(x.value - x.low, y.value - y.low), math.hypot(x.high - x.value, y.high - y.value)
    assert_close(list(found), [mean, mean - low / 2, mean + high / 2])
    nothing = tv.average([evaluation(torch.zeros(3, 4))] * 4, "regular")
    assert nothing.value == nothing.low == 0
    assert nothing.high > 0.05


def test_distances_within_and_between_tasks():
    vectors = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    within, between = tv.cosine_distances(vectors)
    every = torch.from_numpy(cosine_distances(vectors.flatten(0, 1).numpy()))
    assert within.shape == (18,)
    assert between.shape == (48,)
    blocks = [every[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] for i in range(3)]
    assert_close(within.sum(), sum(block.sum() for block in blocks) / 2)
    assert_close(within.sum() + between.sum(), every.sum() / 2)


def test_vocabulary_is_the_final_norm_and_the_unembedding(tiny):
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    names = ("norm", "ln_f", "final_layer_norm")
    norm = next(
        getattr(tiny.model.base_model, name) for name in names if hasattr(tiny.model.base_model, name)
    )
    with torch.no_grad():
        expected = tiny.model.get_output_embeddings()(norm(vectors)).log_softmax(-1)
    assert_close(tv.vocabulary(tiny, vectors), expected, atol=1e-4, rtol=1e-4)
