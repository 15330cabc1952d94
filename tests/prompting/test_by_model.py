"""Demonstrations that a language model chooses or writes itself."""

import pytest
import torch

from course_lib.fewshot.demonstrations import FORMATS, Format, label_log_probs
from course_lib.prompting import by_model as lm_selection

FORMAT = Format("Q: {x}\nA: {y}", "\n\n")
POOL = [("ab", "no"), ("cde", "yes"), ("f", "no")]
PROBES = [("gh", "yes"), ("ij", "no")]


def test_gain_is_the_mean_difference_of_two_log_probabilities(llama):
    from course_lib.fewshot.demonstrations import score

    found = lm_selection.gains(llama, FORMAT, ["no", "yes"], POOL, PROBES)

    def log_p(demonstrations, x, y):
        each = [FORMAT.tokens(llama, demonstrations, x, label) for label in ("no", "yes")]
        among = score(llama, *map(list, zip(*each, strict=True)))[0].log_softmax(-1)
        return among[("no", "yes").index(y)].item()

    wanted = [sum(log_p([pair], x, y) - log_p([], x, y) for x, y in PROBES) / 2 for pair in POOL]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    assert found.std() > 1e-3


def test_a_written_text_ends_at_quote_or_line_and_has_8_to_20_words(llama, monkeypatch):
    words = " ".join(f"w{i}" for i in range(12))
    written = [
        f'{words}" and more',
        f"{words}\nand more",
        f"{words}<|im_end|>",
        f"{words} {words}",
        'too short" though long behind it, so long that it counts, too',
        f"  other {words}” she said",
    ]
    prompt = llama.prompt('An opening:\n\n"')
    seen = {}

    def generate(self, tokens, num_return_sequences, **kwargs):
        assert tokens.tolist() == [prompt]
        assert num_return_sequences == 6
        seen.update(kwargs)
        return torch.cat([tokens.expand(6, -1), torch.arange(6)[:, None]], 1)

    monkeypatch.setattr(type(llama.model), "generate", generate)
    monkeypatch.setattr(type(llama), "decode", lambda self, tokens: written[tokens[0]])
    texts = lm_selection.write(llama, 'An opening:\n\n"', 6)
    assert texts == [words, f"{words} {words}".rsplit(" ", 4)[0], f"other {words}"]
    assert seen["do_sample"] is True


def test_writing_repeats_itself_with_the_seed_and_leaves_the_generator_alone(llama, monkeypatch):
    monkeypatch.setattr(lm_selection, "SHORTEST", 1)
    state = torch.get_rng_state()
    one, again, other = (lm_selection.write(llama, "An opening", 5, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len(one) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_believed_keeps_the_clearest_of_each_label(llama):
    written = {"no": ["a b", "cc d", "e ff g"], "yes": ["h i", "jj k l", "m"], "maybe": ["n o", "p q", "rr"]}
    pairs = [(x, y) for y, texts in written.items() for x in texts]
    log_p = torch.stack([label_log_probs_of(llama, x, list(written)) for x, _ in pairs])
    among = log_p - log_p.mean(0)
    everything = lm_selection.believed(llama, FORMAT, written, 3)
    wanted = [pairs[i] for i in range(9) if among[i].argmax() == i // 3]
    assert sorted(everything) == sorted(wanted)
    assert 0 < len(wanted) < 9
    first = lm_selection.believed(llama, FORMAT, written, 1)
    for x, y in first:
        own = [pair for pair in everything if pair[1] == y]
        margins = [(top := among[pairs.index(pair)].sort(descending=True).values)[0] - top[1] for pair in own]
        assert (x, y) == own[0]
        assert margins == sorted(margins, reverse=True)
    assert {y for _, y in first} == {y for _, y in wanted}


def label_log_probs_of(model, x, labels):
    from course_lib.fewshot.demonstrations import Case

    return label_log_probs(model, FORMAT, [Case([], [(x, labels[0])])], [0], labels)[0, 0, 0].log_softmax(-1)


def test_the_model_writes_reviews_that_it_believes(real):
    opening = lm_selection.OPENINGS["sentiment"]
    written = {y: lm_selection.write(real, opening.format(y=y), 8) for y in ("negative", "positive")}
    assert all(len(texts) >= 3 for texts in written.values())
    assert all(8 <= len(text.split()) <= 20 for texts in written.values() for text in texts)
    kept = lm_selection.believed(real, FORMATS["sentiment"], written, 2)
    assert 1 <= len(kept) <= 4
    assert all(x in written[y] for x, y in kept)


@pytest.mark.parametrize("task", FORMATS)
def test_openings_name_the_label(task):
    assert lm_selection.OPENINGS[task].format(y="LABEL").count("LABEL") == 1
