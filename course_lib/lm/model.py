"""A causal language model with its tokenizer: `load` one by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from course_lib.lm import weights

# A chat model's tokenizer may name its turn marker as the beginning-of-sequence token; in pretraining its
# documents started with another one.
CHAT_MARKERS = {"<|im_start|>"}
SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model of transformers, its tokenizer, and what every prompt needs to know of them."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def n_layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def n_heads(self) -> int:
        return self.model.config.num_attention_heads

    @cached_property
    def document_start(self) -> list[int]:
        """The token ids a document started with in pretraining (none, if the tokenizer knows no such token).

        A prompt without it makes its first word the attention sink, which ruins short prompts.
        """
        tokenizer = self.tokenizer
        if tokenizer.bos_token is not None and tokenizer.bos_token not in CHAT_MARKERS:
            return [tokenizer.bos_token_id]
        if SEPARATOR in tokenizer.get_vocab():
            return [tokenizer.convert_tokens_to_ids(SEPARATOR)]
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; no special tokens are added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a text that starts a document: the document start, then the text."""
        return [*self.document_start, *self.encode(text)]

    def decode(self, tokens: int | list[int]) -> str:
        """The text of one token id or of several."""
        return self.tokenizer.decode(tokens)

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}: {self.n_layers} layers × {self.n_heads} heads)"


def load(
    name: str = "smollm2-135m",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Load a language model for inference; no global state is changed.

    Args:
        name: "smollm2-135m" (its weights come in a Python package), or whatever
            `AutoModelForCausalLM.from_pretrained` takes: a local folder or a hub id.
        device: where the weights go; CUDA if there is one, else the CPU.
        dtype: floating-point type of the weights.

    Raises:
        FileNotFoundError: packaged weights are neither installed nor cached and cannot be downloaded.
        ValueError: transformers finds no causal language model under that name.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = str(weights.prepare(name)) if name in weights.PACKAGES else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"name={name!r} is not packaged with the course ({', '.join(weights.PACKAGES)}), and transformers "
            f"could not load it as a local folder or a hub id: {error}"
        ) from error
    return LanguageModel(name, model.to(device).eval(), tokenizer)
