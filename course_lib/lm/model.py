"""A causal language model with its tokenizer: `load` one by name."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
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
    revision: str | None = None  # that was asked for: a branch, a tag or a commit of the hub
    commit: str | None = None  # of the hub, from which the files are; None for a folder and packaged weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return self.model.config.num_hidden_layers

    @property
    def n_heads(self) -> int:
        """Number of query heads in each block."""
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
        return self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}: {self.n_layers} layers × {self.n_heads} heads)"


def load(
    name: str | os.PathLike[str] = "smollm2-135m",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    accept_licence: bool = False,
    revision: str | None = None,
) -> LanguageModel:
    """Load a language model for inference; no global state is changed and no code of the model is run.

    Args:
        name: "smollm2-135m" or "gemma3-270m" (their weights come in Python packages), or whatever
            `AutoModelForCausalLM.from_pretrained` takes: a local folder or a hub id, with safetensors.
        device: where the weights go; CUDA if there is one, else the CPU.
        dtype: floating-point type of the weights.
        accept_licence: that you accept the terms of the packaged weights; "gemma3-270m" needs it.
        revision: the branch, tag or commit of a model of the hub; its main branch if not given.

    Raises:
        FileNotFoundError: packaged weights are neither installed nor cached and cannot be downloaded.
        ValueError: `device` or `dtype` cannot be used, the terms of packaged weights are not accepted, a
            `revision` is asked of packaged weights or of a folder, or transformers cannot load a whole causal
            language model under that name.
    """
    name = os.fspath(name)
    device = _usable(device)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype!r}: expected a floating-point torch.dtype")
    packaged = name in weights.PACKAGES
    if revision is not None and (packaged or os.path.isdir(name)):
        raise ValueError(f"revision={revision!r}: {name} is not on the hub; only its models have revisions")
    if packaged:
        return _from_pretrained(name, str(weights.prepare(name, accept_licence)), device, dtype, None)
    try:
        return _from_pretrained(name, name, device, dtype, revision)
    except Exception as error:
        near = difflib.get_close_matches(name.lower(), weights.PACKAGES, n=1)
        asked = f"name={name!r}" if revision is None else f"name={name!r}, revision={revision!r}"
        hint = f"\nDid you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{asked} is not packaged with the course ({', '.join(weights.PACKAGES)}), and "
            f"transformers could not load it as a local folder or a hub id: {error}{hint}"
        ) from error


def fingerprint(model: LanguageModel) -> str:
    """A checksum of all weights: SHA-256, as hexadecimal digits."""
    digest = hashlib.sha256()
    for weight in model.model.state_dict().values():
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _usable(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(f"device={device!r}: expected a device of this machine; {error}") from error


def _from_pretrained(
    name: str, source: str, device: torch.device, dtype: torch.dtype, revision: str | None
) -> LanguageModel:
    where = {
        "pretrained_model_name_or_path": source,
        "revision": revision,
        "local_files_only": not _on_hub(source, revision),
        "trust_remote_code": False,
    }
    model, report = AutoModelForCausalLM.from_pretrained(
        **where, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise ValueError(f"its files lack the weights {', '.join(sorted(report['missing_keys']))}")
    tokenizer = AutoTokenizer.from_pretrained(**where)
    return LanguageModel(name, model.to(device).eval(), tokenizer, revision, _commit(source, revision))


def _on_hub(source: str, revision: str | None) -> bool:
    """Whether to ask the hub: not for a folder, nor without a network (transformers retries for a minute)."""
    if os.path.isdir(source):
        return False
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=10)
    except HfHubHTTPError:  # it answered: let transformers say what is wrong
        return True
    except Exception:  # no connection, or no possible name
        return False
    return True


def _commit(source: str, revision: str | None) -> str | None:
    """The commit of the hub that was just loaded: the cache of the hub has a folder for each."""
    if os.path.isdir(source):
        return None
    config = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(config).parent.name if isinstance(config, str) else None
