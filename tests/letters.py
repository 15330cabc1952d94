"""A small classification of letters, for tiny models: its cases, and their prompts."""

from course_lib import fewshot, lm
from course_lib.fewshot import Case, Classification, Format

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
TASK = Classification("letters", FORMAT, ("no", "yes"), (), ())
CASES = [
    Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")]),
    Case([("kl", "yes"), ("m", "no"), ("no", "yes")], [("ij", "no"), ("pq", "yes")]),
]


def laid_out(model: lm.LanguageModel, cases: list[Case] = CASES) -> fewshot.LaidOut:
    """The prompts of the cases in a model's tokens."""
    return fewshot.lay_out(model, TASK, cases)
