"""Texts that a language model writes."""

import torch

from course_lib import lm
from course_lib.lm import sampling


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
    texts = lm.sample_texts(llama, 'An opening:\n\n"', 6)
    assert texts == [words, f"{words} {words}".rsplit(" ", 4)[0], f"other {words}"]
    assert seen["do_sample"] is True


def test_writing_repeats_itself_with_the_seed_and_leaves_the_generator_alone(llama, monkeypatch):
    monkeypatch.setattr(sampling, "SHORTEST", 1)
    state = torch.get_rng_state()
    one, again, other = (lm.sample_texts(llama, "An opening", 5, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len(one) > 1
    assert torch.equal(torch.get_rng_state(), state)
