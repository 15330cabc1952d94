"""Where labels stand in a prompt, cuts, what each head does for the answer, and attention to labels."""

import pytest
import torch

from course_lib import in_context_heads as heads
from course_lib import lm
from course_lib.demonstrations import Case, Format

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
    assert texts == ["Q: ab\nA:", "\n\nQ: cde\nA:", "\n\nQ: f\nA:"]
    assert real.decode(where.tokens[where.query.start : where.query.stop]) == "\n\nQ: gh\nA"
    assert real.decode(where.tokens[where.last]) == ":"


def test_every_position_has_its_place(tiny):
    where = prompts(tiny)[0]
    places = [*range(len(tiny.document_start)), *where.query, where.last]
    for text, label in zip(where.texts, where.labels, strict=True):
        places += [*text, label]
    answers = [FORMAT.tokens(tiny, [], "x", y)[1] for _, y in CASE.demonstrations]
    places += [y + i for y, answer in zip(where.labels, answers, strict=True) for i in range(1, len(answer))]
    assert sorted(places) == list(range(len(where.tokens)))


def test_a_demonstration_that_is_joined_with_the_next_is_told(real):
    with pytest.raises(ValueError, match="demonstration 1: its tokens are others when more follows"):
        heads.layout(real, Format("{x} {y}", ""), Case([("a", "b"), ("c", "d")], []), "e")


def test_labels_need_different_first_tokens(real):
    tokens = heads.label_tokens(real, SPACED, ["no", "yes"])
    assert [real.decode(token) for token in tokens] == [" no", " yes"]
    with pytest.raises(ValueError, match="first tokens that differ"):
        heads.label_tokens(real, SPACED, ["no", "no way"])


def test_links_of_each_cut(tiny):
    where = prompts(tiny)[0]
    cut = {name: {(q, k) for q, k, factor in heads.links(where, name) if not factor} for name in heads.CUTS}
    assert cut["labels to last"] == {(where.last, y) for y in where.labels}
    assert cut["query to last"] == {(where.last, t) for t in where.query}
    assert cut["texts to last"] == {(where.last, t) for text in where.texts for t in text}
    assert cut["texts to labels"] == {
        (y, t) for y, x in zip(where.labels, where.texts, strict=True) for t in x
    }
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


def test_parts_of_heads_are_what_they_add_to_the_logits(tiny):
    """In the last layer nothing but the norm's scale and the feed-forward block stand behind a head."""
    if "gemma" in tiny.name:
        pytest.skip("a norm stands between a head's output and the residual stream")
    parts, logits = heads.direct(tiny, prompts(tiny), labels(tiny))
    assert parts.shape == (2, tiny.n_layers, tiny.n_heads, 2)
    torch.testing.assert_close(parts.sum(-1), torch.zeros(parts.shape[:-1]), atol=1e-5, rtol=0)
    asked = heads.ask(tiny, prompts(tiny), labels(tiny)).logits
    torch.testing.assert_close(logits, asked - asked.mean(-1, keepdim=True), atol=1e-5, rtol=1e-4)
    # the residual stream, written as a sum: what goes through W_O of one head, and the rest
    layer, head = 1, 2
    read = lm.Read(residual=[tiny.n_layers - 1], heads=[layer])
    out = lm.forward(tiny, [prompts(tiny)[0].tokens], read)
    written = out.heads[0, 0, 0, head] @ lm.output_projections(tiny)[layer, head]
    towards = lm.unembedding(tiny)[labels(tiny)]
    whole = towards @ out.residual[0, 0, 0]
    ratio = (towards @ written)[0] - (towards @ written)[1]
    scale = (logits[0, 0] - logits[0, 1]) / (whole[0] - whole[1])
    assert (parts[0, layer, head, 0] - parts[0, layer, head, 1]).item() == pytest.approx(
        (ratio * scale).item(), abs=1e-4
    )


def test_the_gain_of_a_head():
    logits = torch.tensor([[1.0, -1.0]])
    parts = torch.tensor([2.0, 0.0, -1.0])[:, None] * torch.tensor([1.0, -1.0])  # three heads
    gain = heads.gain(parts[None, None], logits, torch.tensor([0]))[0, 0]
    log_p = [torch.tensor([v, -v]).log_softmax(0)[0] for v in (1.0, -1.0, 1.0, 2.0)]
    torch.testing.assert_close(
        gain, torch.stack([log_p[0] - log_p[1], log_p[0] - log_p[2], log_p[0] - log_p[3]])
    )
    other = heads.gain(parts[None, None], logits, torch.tensor([1]))[0, 0]
    assert other[0] < 0 < other[2]


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
