"""Prompts as texts and as tokens."""

import pytest

from course_lib import fewshot

PAIRS = [("hot", "cold"), ("up", "down"), ("day", "night"), ("big", "small"), ("old", "new"), ("wet", "dry")]


def test_a_prompt_has_its_parts_in_order():
    form = fewshot.Format("Q: {x}\nA: {y}", "\n\n", "Write the opposite.\n")
    assert form.context(PAIRS[:1], "up") == "Write the opposite.\nQ: hot\nA: cold\n\nQ: up\nA:"
    assert form.context([], "up") == "Write the opposite.\nQ: up\nA:"
    assert form.answer("down") == " down"
    assert fewshot.Format().context(PAIRS[:2], "big") == "hot→cold\nup→down\nbig→"
    assert fewshot.Format().answer("small") == "small"


@pytest.mark.parametrize("example", ["{x}→", "→{y}", "{y}←{x}", "{x}→{y}."])
def test_a_template_without_query_or_that_does_not_end_with_the_answer_is_refused(example):
    with pytest.raises(ValueError, match="expected a template"):
        fewshot.Format(example)


@pytest.mark.parametrize("form", [fewshot.Format(), fewshot.Format("Review: {x}\nSentiment: {y}", "\n\n")])
def test_tokens_are_those_of_the_whole_text_after_a_document_start(real, form):
    prompt, answer = form.tokens(real, PAIRS[:2], "big", "small")
    assert prompt[: len(real.document_start)] == real.document_start
    whole = real.encode(form.context(PAIRS[:2], "big") + form.answer("small"))
    assert (prompt + answer)[len(real.document_start) :] == whole
    assert real.decode(answer) == form.answer("small")


def test_an_answer_that_merges_with_the_context_is_refused(real):
    joined = fewshot.Format("{x}{y}")
    with pytest.raises(ValueError, match="changes the tokens"):
        joined.tokens(real, [], "hel", "lo")
