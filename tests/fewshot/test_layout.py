"""Where the parts of a prompt stand, and the links of a cut."""

import pytest
import torch
from letters import CASES, laid_out

from course_lib import fewshot
from course_lib.fewshot import Case, Format

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
SPACED = Format("Q: {x}\nA: {y}", "\n\n")  # where " no" is a token
CASE = Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")])


def test_a_layout_says_what_stands_where(real):
    where = fewshot.layout(real, SPACED, CASE, "gh")
    assert (
        real.decode(where.tokens) == "<|endoftext|>Q: ab\nA: no\n\nQ: cde\nA: yes\n\nQ: f\nA: no\n\nQ: gh\nA:"
    )
    assert [real.decode(where.tokens[i]) for i in where.labels] == [" no", " yes", " no"]
    texts = [real.decode(where.tokens[t.start : t.stop]) for t in where.texts]
    assert texts == ["Q: ab", "\n\nQ: cde", "\n\nQ: f"]
    frames = [real.decode(where.tokens[f.start : f.stop]) for f in [*where.frames, where.query_frame]]
    assert frames == ["\nA:"] * 4
    assert real.decode(where.tokens[where.query.start : where.query.stop]) == "\n\nQ: gh"
    assert real.decode(where.tokens[where.last]) == ":"


def test_every_position_has_its_place(tiny):
    where = fewshot.layout(tiny, FORMAT, CASE, "gh")
    places = [*range(len(tiny.document_start)), *where.query, *where.query_frame]
    for text, frame, label in zip(where.texts, where.frames, where.labels, strict=True):
        places += [*text, *frame, label]
    assert where.query_frame[-1] == where.last
    answers = [FORMAT.tokens(tiny, [], "x", y)[1] for _, y in CASE.demonstrations]
    places += [y + i for y, answer in zip(where.labels, answers, strict=True) for i in range(1, len(answer))]
    assert sorted(places) == list(range(len(where.tokens)))


def test_a_demonstration_that_is_joined_with_the_next_is_told(real):
    with pytest.raises(ValueError, match="demonstration 1: its tokens are others when more follows"):
        fewshot.layout(real, Format("{x}: {y}", ""), Case([("a", "b"), ("c", "d")], []), "e")


def test_a_format_needs_something_that_asks(real):
    with pytest.raises(ValueError, match=r"expected something between \{x\} and \{y\}"):
        fewshot.layout(real, Format("{x}{y}"), CASE, "gh")


def test_a_query_that_is_joined_with_what_follows_is_told(real):
    joined = Format("Q: {x}. {y}", "\n\n")
    with pytest.raises(ValueError, match=r"query='a\.': its last token is joined with what follows"):
        fewshot.layout(real, joined, Case([("ab", "no")], []), "a.")
    with pytest.raises(ValueError, match="demonstration 1: its tokens are others"):
        fewshot.layout(real, joined, Case([("a.", "no")], []), "ab")


def test_labels_need_different_first_tokens(real):
    tokens = fewshot.label_tokens(real, SPACED, ["no", "yes"])
    assert [real.decode(token) for token in tokens] == [" no", " yes"]
    with pytest.raises(ValueError, match="first tokens that differ"):
        fewshot.label_tokens(real, SPACED, ["no", "no way"])


def test_links_of_each_cut(tiny):
    where = fewshot.layout(tiny, FORMAT, CASE, "gh")
    cut = {
        name: {(q, k) for q, k, factor in fewshot.links(where, name) if not factor} for name in fewshot.CUTS
    }
    assert cut["labels to last"] == {(t, y) for t in where.query_frame for y in where.labels}
    assert cut["query to last"] == {(t, s) for t in where.query_frame for s in where.query}
    assert cut["texts to last"] == {(t, s) for t in where.query_frame for text in where.texts for s in text}
    each = list(zip(where.labels, where.frames, where.texts, strict=True))
    assert cut["frames to labels"] == {(y, t) for y, frame, _ in each for t in frame}
    assert cut["texts to labels"] == {(t, s) for y, frame, text in each for t in (*frame, y) for s in text}
    with pytest.raises(ValueError, match="cut='all': expected one of texts to labels"):
        fewshot.links(where, "all")


def test_prompts_of_all_cases(llama):
    found = laid_out(llama)
    assert found.prompts == [
        FORMAT.tokens(llama, case.demonstrations, x)[0] for case in CASES for x, _ in case.queries
    ]
    assert found.right.tolist() == [1, 0, 0, 1]
    assert found.shown.tolist() == [[0, 1, 0]] * 2 + [[1, 0, 1]] * 2
    assert [llama.decode([t]) for t in found.labels] == ["n", "y"]
    assert found.n_queries == 2
    torch.testing.assert_close(
        found.per_case(torch.tensor([1.0, 0.0, 1.0, 1.0])), torch.tensor([0.5, 1.0]), rtol=0, atol=0
    )


def test_cases_have_as_many_demonstrations_and_queries(llama):
    task = laid_out(llama).task
    with pytest.raises(
        ValueError, match=r"as many demonstrations and queries in each, got \[\(3, 1\), \(3, 2\)\]"
    ):
        fewshot.lay_out(llama, task, [CASES[0], Case(CASES[1].demonstrations, CASES[1].queries[:1])])
