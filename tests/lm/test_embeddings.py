"""Sentence embeddings: those of the model one text at a time."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from wheels import count_hashes

from course_lib.lm.embeddings import PACKAGE, _load, embed
from course_lib.packages import find

TEXTS = ["a wonderful film", "the bank raised its rates by half a point, to 4.5 per cent", "rain", "x" * 3000]


def test_they_are_the_means_of_what_the_model_says_of_each_text():
    folder = find(PACKAGE)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ours = embed(TEXTS, device="cpu")
    for text, vector in zip(TEXTS, ours, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        mean = model(**tokens).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_alike_texts_are_near():
    film, bank, rain, _ = embed([*TEXTS[:3], "a superb movie"], device="cpu")
    movie = embed(["a superb movie"], device="cpu")[0]
    assert film @ movie > 0.5 > max(film @ bank, film @ rain)
    assert embed(["film"] * 70, device="cpu").shape == (70, 384)


def test_no_texts():
    with pytest.raises(ValueError, match="texts is empty"):
        embed([])


def test_the_package_is_among_the_requirements():
    requirements = Path(__file__).parents[2].joinpath("requirements-data.txt").read_text(encoding="utf-8")
    assert f"\n{PACKAGE.requirement} --hash=sha256:" in requirements


def test_the_weights_are_hashed_once(monkeypatch):
    find(PACKAGE)
    hashed = count_hashes(monkeypatch)
    _load.__wrapped__("cpu")
    assert hashed == []
