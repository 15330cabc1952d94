"""Loading a language model by name, and what a prompt needs to know of it."""

import os
import random
import shutil
import socket
import subprocess
import sys
import warnings
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import families
import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from course_lib import lm
from course_lib.lm import weights

ENVIRONMENT = dict(os.environ)  # before anything is loaded
# ordinary text: no control characters, of which SmolLM2's byte-level vocabulary lacks some
CHARACTERS = st.characters(exclude_categories=["C"]) | st.sampled_from("\n\t")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny Llama as a hub would hold it."""
    return families.make("llama", tmp_path / "model")


# -------------------------------------------------------------------------------- tokens


def test_every_family_loads_from_a_folder(tiny):
    family = next(name for name in families.FAMILIES if tiny.model.config.model_type.startswith(name))
    start = families.FAMILIES[family][3]
    assert tiny.tokenizer.convert_ids_to_tokens(tiny.document_start) == [start]
    assert (tiny.n_layers, tiny.n_heads) == (4, 4)
    assert not tiny.model.training
    assert tiny.prompt("ab") == [*tiny.document_start, *tiny.encode("a"), *tiny.encode("b")]


@pytest.mark.parametrize(
    ("special", "start"),
    [
        ({}, []),
        ({"eos_token": "</s>"}, ["</s>"]),
        ({"eos_token": "</s>", "bos_token": "<s>"}, ["<s>"]),
        ({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|endoftext|>"]),
        ({"bos_token": "<|im_start|>", "unk_token": "<|endoftext|>"}, ["<|endoftext|>"]),
    ],
)
def test_document_start(llama, special, start):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])), **special
    )
    model = lm.LanguageModel("made here", llama.model, tokenizer)
    assert tokenizer.convert_ids_to_tokens(model.document_start) == start


def test_smollm2_documents_start_with_its_separator(real):
    assert real.document_start == [0]
    assert real.decode(0) == "<|endoftext|>"
    assert real.prompt("Paris") == [0, *real.encode("Paris")]
    assert (real.n_layers, real.n_heads) == (30, 9)


def test_encode_adds_no_special_tokens(tmp_path):
    folder = families.make("llama", tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    start = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=start)
    tokenizer.save_pretrained(folder)
    model = lm.load(folder)
    assert model.tokenizer.decode(model.tokenizer.encode("ab")) == "<s>ab"
    assert model.decode(model.encode("ab")) == "ab"


@given(st.text(CHARACTERS))
@example("1 , 2 .\n\n3  4 don't")
def test_decoding_undoes_encoding(real, text):
    assert real.decode(real.encode(text)) == text


# as SmolLM2's own tokenizer, whose pre-tokenizer cuts numbers into digits first
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello world", ["Hello", " world"]),
        ("in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("\n\n2 x", ["\n\n", "2", " x"]),
        ("a  7", ["a", "  ", "7"]),
    ],
)
def test_smollm2_tokens_are_those_of_pretraining(real, text, tokens):
    assert [real.decode(token) for token in real.encode(text)] == tokens


# -------------------------------------------------------------------------------- arguments


def test_device_and_dtype_are_honoured(folder):
    model = lm.load(folder, device="meta", dtype=torch.bfloat16)
    assert model.device.type == "meta"
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
    model = lm.load(folder)
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "bad",
    [
        {"device": "nowhere"},
        {"device": "cuda:99"},
        {"device": []},
        {"dtype": torch.int8},
        {"dtype": "float32"},
    ],
)
def test_a_bad_argument_is_named_before_anything_is_loaded(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError) as error:
        lm.load("no/such-model", **bad)
    assert str(error.value).startswith(f"{name}={value!r}: expected")


# -------------------------------------------------------------------------------- names


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_an_unknown_name_is_named_with_the_packaged_ones_and_the_reason(offline):
    with pytest.raises(ValueError, match=r"name='no/such-model'.*smollm2-135m.*couldn't connect") as error:
        lm.load("no/such-model")
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("typo", ["smollm2_135m", "SmolLM2-135M-Instruct", "smollm-135m"])
def test_a_typo_is_told_the_right_name(offline, typo):
    with pytest.raises(ValueError, match=r"Did you mean 'smollm2-135m'\?"):
        lm.load(typo)


class Hub(SimpleHTTPRequestHandler):
    """A hub with one model, tiny/llama, in the folder that it serves."""

    def translate_path(self, path):
        return super().translate_path(path.removeprefix("/tiny/llama/resolve/main"))

    def end_headers(self):
        self.send_header("ETag", f'"{Path(self.path).name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a new process, in the folder of the tests."""
    environment = ENVIRONMENT | environment | {"PYTHONPATH": os.pathsep.join(sys.path), "TQDM_DISABLE": "1"}
    tests = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tests, capture_output=True, text=True
    )


def test_a_hub_id_is_downloaded_and_a_network_that_is_away_is_not_waited_for(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    code = f"""
import functools, http.server, threading
from test_model import Hub, lm
with http.server.ThreadingHTTPServer({address}, functools.partial(Hub, directory={str(folder)!r})) as hub:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    print(lm.load("tiny/llama", device="cpu").n_layers, "layers from the hub")
    hub.shutdown()
print(lm.load("tiny/llama", device="cpu").n_layers, "layers from its cache")
lm.load("no/such-model")
"""
    url = "http://{}:{}".format(*address)
    result = run(code, HF_HUB_OFFLINE="0", HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hub"))
    assert result.stdout == "4 layers from the hub\n4 layers from its cache\n"
    assert "\nValueError: name='no/such-model' is not packaged" in result.stderr
    assert f"couldn't connect to '{url}'" in result.stderr
    assert "Retrying" not in result.stderr


def without_head(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (without_head, "lack the weights lm_head.weight"),
        (pickled, "model.safetensors"),
        (truncated, "safetensor|incomplete"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: shutil.rmtree(folder), "repo id"),
    ],
)
def test_a_folder_without_a_whole_model_is_refused(offline, folder, harm, reason):
    harm(folder)
    with pytest.raises(ValueError, match=f"(?si)^name='{folder}'.*{reason}"):
        lm.load(folder)


def test_a_packaged_model_keeps_its_own_errors(monkeypatch):
    def missing(name, accept_licence):
        raise FileNotFoundError("not installed")

    monkeypatch.setattr(weights, "prepare", missing)
    with pytest.raises(FileNotFoundError, match="not installed"):
        lm.load("smollm2-135m")


# -------------------------------------------------------------------------------- global state


def global_state() -> dict:
    generator = np.random.get_state()
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": (generator[0], generator[1].tolist(), *generator[2:]),
        "python generator": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }


@pytest.fixture
def unusual_state():
    """Settings other than the defaults, so that a reset shows too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    torch.set_default_dtype(torch.float64)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(12345)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


def test_loading_changes_no_global_state(unusual_state, real, folder):
    before = global_state()
    models = lm.load(folder, device="cpu"), lm.load(device="cpu")
    assert global_state() == before
    for model in models:
        assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    ours, theirs = models[1].model, real.model
    assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()), atol=0, rtol=0)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), atol=0, rtol=0)


def test_the_first_load_of_a_process_is_silent_and_changes_no_global_state(real):
    code = """
from test_model import global_state, lm
before = global_state()
lm.load("smollm2-135m", device="cpu")
after = global_state()
assert after == before, [name for name in before if after[name] != before[name]]
"""
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
