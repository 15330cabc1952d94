"""Where labels stand in a prompt, cuts, what each head does for the answer, and attention to labels."""

import pytest
import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import Case, Format
from course_lib.mechanisms import label_heads as heads

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
SPACED = Format("Q: {x}\nA: {y}", "\n\n")  # where " no" is a token
CASE = Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")])


def prompts(model):
    return [heads.layout(model, FORMAT, CASE, x) for x, _ in CASE.queries]


def labels(model):
    return heads.label_tokens(model, FORMAT, ["no", "yes"])


def test_a_layout_says_what_stands_where(real):
    where = heads.layout(real, SPACED, CASE, "gh")
    assert (
        real.decode(where.tokens) == "<|endoftext|>Q: ab\nA: no\n\nQ: cde\nA: yes\n\nQ: f\nA: no\n\nQ: gh\nA:"
    )
    assert [real.decode(where.tokens[i]) for i in where.labels] == [" no", " yes", " no"]
    texts = [real.decode(where.tokens[t.start : t.stop]) for t in where.texts]
    assert texts == ["Q: ab", "\n\nQ: cde", "\n\nQ: f"]
    frames = [real.decode(where.tokens[f.start : f.stop]) for f in [*where.frames, where.asks]]
    assert frames == ["\nA:"] * 4
    assert real.decode(where.tokens[where.query.start : where.query.stop]) == "\n\nQ: gh"
    assert real.decode(where.tokens[where.last]) == ":"


def test_every_position_has_its_place(tiny):
    where = prompts(tiny)[0]
    places = [*range(len(tiny.document_start)), *where.query, *where.asks]
    for text, frame, label in zip(where.texts, where.frames, where.labels, strict=True):
        places += [*text, *frame, label]
    assert where.asks[-1] == where.last
    answers = [FORMAT.tokens(tiny, [], "x", y)[1] for _, y in CASE.demonstrations]
    places += [y + i for y, answer in zip(where.labels, answers, strict=True) for i in range(1, len(answer))]
    assert sorted(places) == list(range(len(where.tokens)))


def test_a_demonstration_that_is_joined_with_the_next_is_told(real):
    with pytest.raises(ValueError, match="demonstration 1: its tokens are others when more follows"):
        heads.layout(real, Format("{x}: {y}", ""), Case([("a", "b"), ("c", "d")], []), "e")


def test_a_format_needs_something_that_asks(real):
    with pytest.raises(ValueError, match=r"expected something between \{x\} and \{y\}"):
        heads.layout(real, Format("{x}{y}"), CASE, "gh")


def test_a_query_that_is_joined_with_what_follows_is_told(real):
    joined = Format("Q: {x}. {y}", "\n\n")
    with pytest.raises(ValueError, match=r"query='a\.': its last token is joined with what follows"):
        heads.layout(real, joined, Case([("ab", "no")], []), "a.")
    with pytest.raises(ValueError, match="demonstration 1: its tokens are others"):
        heads.layout(real, joined, Case([("a.", "no")], []), "ab")


def test_labels_need_different_first_tokens(real):
    tokens = heads.label_tokens(real, SPACED, ["no", "yes"])
    assert [real.decode(token) for token in tokens] == [" no", " yes"]
    with pytest.raises(ValueError, match="first tokens that differ"):
        heads.label_tokens(real, SPACED, ["no", "no way"])


def test_links_of_each_cut(tiny):
    where = prompts(tiny)[0]
    cut = {name: {(q, k) for q, k, factor in heads.links(where, name) if not factor} for name in heads.CUTS}
    assert cut["labels to last"] == {(t, y) for t in where.asks for y in where.labels}
    assert cut["query to last"] == {(t, s) for t in where.asks for s in where.query}
    assert cut["texts to last"] == {(t, s) for t in where.asks for text in where.texts for s in text}
    each = list(zip(where.labels, where.frames, where.texts, strict=True))
    assert cut["frames to labels"] == {(y, t) for y, frame, _ in each for t in frame}
    assert cut["texts to labels"] == {(t, s) for y, frame, text in each for t in (*frame, y) for s in text}
    with pytest.raises(ValueError, match="cut='all': expected one of texts to labels"):
        heads.links(where, "all")


def test_answers_are_the_logits_of_the_labels(tiny):
    answers = heads.ask(tiny, prompts(tiny), labels(tiny))
    logits = lm.forward(tiny, [p.tokens for p in prompts(tiny)]).logits
    torch.testing.assert_close(answers.logits, logits[:, labels(tiny)])
    torch.testing.assert_close(answers.log_p, logits.log_softmax(-1)[:, labels(tiny)])


def test_choices_are_free_of_what_a_case_shares():
    logits = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
    answers = heads.Answers(logits, logits)
    assert answers.chosen(2).tolist() == [1, 0, 0, 1]
    assert answers.chosen(4).tolist() == [0, 0, 1, 1]


def test_without_its_direct_part_a_head_of_the_last_layer_is_nearly_gone(llama):
    """Behind a head of the last layer are its own feed-forward block and the last norm's scale, kept here."""
    found = heads.direct(llama, prompts(llama), labels(llama))
    assert found.logits.shape == (2, llama.n_layers, llama.n_heads, 2)
    layer, head = llama.n_layers - 1, 2
    read = lm.Read(residual=[layer], heads=[layer])
    out = lm.forward(llama, [p.tokens for p in prompts(llama)], read)
    residual = out.residual[:, 0, 0] - out.heads[:, 0, 0, head] @ lm.output_projections(llama)[layer, head]
    # the last norm divides by the scale that it had
    eps = llama.model.config.rms_norm_eps
    scale = (out.residual[:, 0, 0].square().mean(-1, keepdim=True) + eps).rsqrt()
    logits = (residual * scale) @ lm.unembedding(llama).T
    torch.testing.assert_close(found.logits[:, layer, head], logits[:, labels(llama)], atol=1e-4, rtol=1e-3)
    log_p = logits.log_softmax(-1)[:, labels(llama)]
    torch.testing.assert_close(found.log_p[:, layer, head], log_p, atol=1e-4, rtol=1e-3)


def test_a_head_that_writes_nothing_has_no_part(tiny):
    if "gemma" in tiny.name:
        pytest.skip("a norm stands between a head's output and the residual stream")
    whole = heads.ask(tiny, prompts(tiny), labels(tiny))
    found = heads.direct(tiny, prompts(tiny), labels(tiny))
    moved = (found.logits - whole.logits[:, None, None]).abs().amax((0, 3))
    assert moved.min() > 1e-6  # of the heads of a random model, each writes something
    gone = lm.forward(tiny, [p.tokens for p in prompts(tiny)], lm.Read(heads=[0])).heads[:, 0, 0, 1]
    assert gone.abs().max() > 0
    right = torch.tensor([0, 1])
    shares = heads.gain(whole, found, right)
    by_hand = whole.log_p[1, 1] - found.log_p[1, 1, 3, 1]
    torch.testing.assert_close(shares[1, 1, 3], by_hand)


def test_the_gain_of_a_head():
    whole = heads.Answers(torch.zeros(2, 2), torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]))
    log_p = torch.tensor(
        [[[[-1.5, -1.0], [-1.0, -9.0]]], [[[-7.0, -2.0], [-8.0, 0.0]]]]
    )  # (2, 1, 2 heads, 2)
    gain = heads.gain(whole, heads.Answers(log_p, log_p), torch.tensor([0, 1]))
    torch.testing.assert_close(gain, torch.tensor([[[0.5, 0.0]], [[1.5, -0.5]]]))


def test_heads_one_by_one_are_heads_alone(tiny):
    values = torch.randn(lm.head_means(tiny, [p.tokens for p in prompts(tiny)]).shape)
    for given in (None, values):
        found = heads.one_by_one(tiny, prompts(tiny), labels(tiny), given)
        assert found.logits.shape == (2, tiny.n_layers, tiny.n_heads, 2)
        for layer, head in ((0, 3), (3, 1)):
            value = 0.0 if given is None else given[layer, head]
            alone = heads.ask(tiny, prompts(tiny), labels(tiny), [lm.Write(layer, value, head=head)])
            torch.testing.assert_close(found.logits[:, layer, head], alone.logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.log_p[:, layer, head], alone.log_p, atol=1e-4, rtol=1e-4)


def test_labels_attention_and_what_is_written_of_them(tiny):
    seen = heads.at_labels(tiny, prompts(tiny), labels(tiny))
    where, layer, head = prompts(tiny)[1], 2, 1
    out = lm.forward(tiny, [where.tokens], lm.Read(attention=[layer], positions=[-1]))
    torch.testing.assert_close(seen.attention[1, layer, head], out.attention[0, 0, 0, head, where.labels])
    torch.testing.assert_close(seen.start[1, layer, head], out.attention[0, 0, 0, head, 0])
    q, k = lm.queries_and_keys(tiny, where.tokens, [layer])
    scores = q[0, head, -1] @ k[0, head].T / q.shape[-1] ** 0.5
    expected = (scores - scores[0])[where.labels]
    if "gemma" not in tiny.name:  # which has no document start at 0 in the window of some layers
        torch.testing.assert_close(seen.scores[1, layer, head], expected, atol=1e-4, rtol=1e-4)

    # a head that attends to a label alone returns its value
    def only(queries, keys, values, mask):
        out = torch.zeros(*queries.shape[:-1], values.shape[-1]) + values[:, :, where.labels[2]][:, :, None]
        return out, None

    alone = lm.forward(tiny, [where.tokens], lm.Read(heads=[layer]), attend=lm.Attend(layer, only))
    towards = lm.unembedding(tiny)[labels(tiny)]
    written = (towards - towards.mean(0)) @ (
        alone.heads[0, 0, 0, head] @ lm.output_projections(tiny)[layer, head]
    )
    torch.testing.assert_close(seen.written[1, layer, head, 2], written, atol=1e-5, rtol=1e-4)


def test_votes_add_up_attention_by_label():
    attention = torch.tensor([[[0.1, 0.2, 0.3]], [[0.3, 0.0, 0.1]]])  # (prompts, heads, k)
    shown = torch.tensor([[0, 1, 0], [2, 2, 1]])
    votes = heads.vote(attention, shown, 3)
    torch.testing.assert_close(votes, torch.tensor([[[0.4, 0.2, 0.0]], [[0.0, 0.1, 0.3]]]))


def test_towers_know_nothing_of_each_other(tiny):
    """A query and a demonstration score the same, whatever other queries and demonstrations there are."""
    pairs = [("ab", "no"), ("cd", "yes"), ("ef", "no")]  # equally long, so that distances are equal
    found = heads.towers(tiny, FORMAT, Case(pairs, [("gh", "yes"), ("ij", "no")]))
    assert found.shape == (2, tiny.n_layers, tiny.n_heads, 3)
    less = heads.towers(tiny, FORMAT, Case(pairs[1:], [("ij", "no")]))
    torch.testing.assert_close(less[0], found[1, ..., 1:], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_towers_in_the_first_layer_are_the_models_own_scores(llama):
    """In the first layer nothing has been seen yet, so that a cut changes nothing."""
    case = Case([("ab", "no")], [("gh", "yes")])
    where = heads.layout(llama, FORMAT, case, "gh")
    own = heads.at_labels(llama, [where], labels(llama)).scores
    found = heads.towers(llama, FORMAT, case)
    torch.testing.assert_close(found[:, 0], own[:, 0], atol=1e-4, rtol=1e-4)
    assert (found[:, 2] - own[:, 2]).abs().max() > 1e-3


def test_towers_need_a_document_start(llama):
    without = lm.LanguageModel(llama.name, llama.model, llama.tokenizer)
    without.__dict__["document_start"] = []
    with pytest.raises(ValueError, match="no document start"):
        heads.towers(without, FORMAT, CASE)


def test_agreement_is_free_of_places_and_of_queries():
    a = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    shifted = 2 * a + torch.randn(6, 3, 1) + torch.randn(1, 3, 4)
    torch.testing.assert_close(heads.agreement(a, shifted), torch.ones(3))
    torch.testing.assert_close(heads.agreement(a, -shifted), -torch.ones(3))
    only_places = torch.tensor([1.0, 2.0, 3.0, 5.0]) + 1e-3 * torch.randn(6, 1, 4)
    assert heads.agreement(a, only_places).abs().max() < 0.9
