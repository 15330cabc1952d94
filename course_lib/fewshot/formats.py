"""How a prompt is written: a template for each example, what separates two, and an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from course_lib import lm

Pair = tuple[str, str]


@dataclass(frozen=True)
class Format:
    """How a prompt is written: the template f of an example, what separates two, and the instruction I."""

    example: str = "{x}→{y}"
    separator: str = "\n"
    instruction: str = ""

    def __post_init__(self) -> None:
        if "{x}" not in self.example or not self.example.endswith("{y}"):
            raise ValueError(f"example={self.example!r}: expected a template with {{x}} that ends with {{y}}")

    def context(self, demonstrations: Sequence[Pair], query: str) -> str:
        """The text in front of the answer; a space before the answer belongs to the answer."""
        examples = [self.example.format(x=x, y=y) for x, y in demonstrations]
        asked = self.example.removesuffix("{y}").format(x=query).rstrip(" ")
        return self.instruction + self.separator.join([*examples, asked])

    def answer(self, y: str) -> str:
        """The text that the model has to write."""
        return " " * (len(self.example) - 3 - len(self.example[:-3].rstrip(" "))) + y

    def tokens(
        self, model: lm.LanguageModel, demonstrations: Sequence[Pair], query: str, y: str = ""
    ) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, which starts with the document start, and of the answer.

        Raises:
            ValueError: the tokenizer joins the end of the context with the beginning of the answer.
        """
        context = self.context(demonstrations, query)
        prompt, whole = model.encode(context), model.encode(context + self.answer(y) if y else context)
        if whole[: len(prompt)] != prompt:
            raise ValueError(f"the answer {self.answer(y)!r} changes the tokens of the text in front of it")
        return [*model.document_start, *prompt], whole[len(prompt) :]
