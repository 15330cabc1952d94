"""Texts that a language model writes."""

from __future__ import annotations

import re

import torch

from course_lib.lm.model import LanguageModel

SHORTEST, LONGEST = 8, 20  # words
ENDS = re.compile(r'["”\n]|<\|')  # also special tokens


def sample_texts(model: LanguageModel, opening: str, n: int, seed: int = 0) -> list[str]:
    """Texts that a language model writes after an opening, up to a closing quotation mark or a new line.

    Args:
        model: a language model.
        opening: what the text is to be, ending with a quotation mark.
        n: how many times to write; the next token is drawn from the likeliest that make up 90 %.
        seed: another seed draws others.

    Returns:
        At most n different texts of 8 to 20 words: longer ones are cut, shorter ones left out.
    """
    prompt = torch.tensor([model.prompt(opening)], device=model.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        written = model.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            top_p=0.9,
            max_new_tokens=2 * LONGEST,
            num_return_sequences=n,
            pad_token_id=0,
        )
    texts = [model.decode(tokens.tolist()) for tokens in written[:, prompt.shape[1] :]]
    words = [ENDS.split(text)[0].split() for text in texts]
    return list(dict.fromkeys(" ".join(own[:LONGEST]) for own in words if len(own) >= SHORTEST))
