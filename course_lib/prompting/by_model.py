"""Chapter 11: demonstrations that a language model chooses or writes itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import Case, Format, Pair, centred, label_log_probs, truth

OPENINGS = {
    "sentiment": 'The following is a {y} review of a film, in one sentence:\n\n"',
    "topic": 'The following is the beginning of a news article about {y}:\n\n"',
}
SHORTEST, LONGEST = 8, 20  # words
ENDS = re.compile(r'["”\n]|<\|')  # also special tokens


def gains(
    model: lm.LanguageModel,
    format: Format,
    labels: Sequence[str],
    pool: Sequence[Pair],
    probes: Sequence[Pair],
) -> torch.Tensor:
    """What each demonstration, shown alone, adds to the log-probability of the right label.

    Args:
        model: a language model.
        format: how prompts are written.
        labels: the answers to choose from.
        pool: n demonstrations.
        probes: labelled examples to try them on, none of them in the pool.

    Returns:
        (n,) log p(y | demonstration, x) − log p(y | x) among the labels, in nats, averaged over the probes.
    """
    right = truth([Case([], probes)], labels)[..., None]  # (1, probes, 1)

    def of_right(cases: Sequence[Case], shots: int) -> torch.Tensor:
        log_p = label_log_probs(model, format, cases, [shots], labels)[0].log_softmax(-1)
        return log_p.gather(-1, right.expand(len(cases), -1, -1)).mean((1, 2))

    return of_right([Case([pair], probes) for pair in pool], 1) - of_right([Case([], probes)], 0)


def write(model: lm.LanguageModel, opening: str, n: int, seed: int = 0) -> list[str]:
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


def believed(
    model: lm.LanguageModel, format: Format, written: Mapping[str, Sequence[str]], n: int
) -> list[Pair]:
    """Of texts written for each label, those that the model itself most clearly gives that label.

    It is asked without demonstrations, and the advantage of a label that all texts share is taken away.

    Args:
        model: a language model.
        format: how prompts are written.
        written: for each label the texts that were written for it.
        n: how many of each label to keep.

    Returns:
        At most n pairs of each label, the clearest first; only texts whose most likely label is their own.
    """
    labels = list(written)
    pairs = [(x, y) for y, texts in written.items() for x in texts]
    among = centred(label_log_probs(model, format, [Case([], pairs)], [0], labels)[0])[0]  # (texts, labels)
    kept = []
    for i, y in enumerate(labels):
        own = [j for j, (_, label) in enumerate(pairs) if label == y and among[j].argmax() == i]
        margin = among[:, i] - among.scatter(1, torch.full((len(pairs), 1), i), -torch.inf).amax(1)
        kept += [pairs[j] for j in sorted(own, key=lambda j: -margin[j])[:n]]
    return kept
