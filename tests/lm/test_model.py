"""Loading a language model by name, and what a prompt needs to know of it."""

import json
import os
import random
import re
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
from state import global_state
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
    """A hub with one model, tiny/model, whose revisions are in the folder that it serves."""

    def translate_path(self, path):
        return super().translate_path(path.removeprefix("/tiny/model/resolve"))

    def end_headers(self):
        commit = {"main": "0", "v1": "1"}.get(Path(self.path).parent.name, "2") * 40
        self.send_header("ETag", f'"{commit}{Path(self.path).name}"')
        self.send_header("X-Repo-Commit", commit)
        super().end_headers()


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a new process, in the folder of the tests."""
    environment = ENVIRONMENT | environment | {"PYTHONPATH": os.pathsep.join(sys.path), "TQDM_DISABLE": "1"}
    tests = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tests, capture_output=True, text=True
    )


def test_a_hub_id_is_downloaded_and_a_network_that_is_away_is_not_waited_for(tmp_path):
    for revision, family in {"main": "llama", "v1": "qwen2"}.items():
        families.make(family, tmp_path / "served" / revision)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    code = f"""
import functools, http.server, threading
from test_model import Hub, lm
def load(revision=None):
    model = lm.load("tiny/model", device="cpu", revision=revision)
    print(model.model.config.model_type, model.tokenizer.bos_token, model.revision, model.commit)
served = functools.partial(Hub, directory={str(tmp_path / "served")!r})
with http.server.ThreadingHTTPServer({address}, served) as hub:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    load(), load("v1")
    try:
        load("v2")
    except ValueError as error:
        print(str(error)[:35])
    hub.shutdown()
load(), load("v1"), load("1" * 40)
lm.load("no/such-model")
"""
    url = "http://{}:{}".format(*address)
    result = run(code, HF_HUB_OFFLINE="0", HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hub"))
    both = f"llama <s> None {'0' * 40}\nqwen2 None v1 {'1' * 40}\n"  # from the hub, then from its cache
    assert (
        result.stdout
        == f"{both}name='tiny/model', revision='v2' is\n{both}qwen2 None {'1' * 40} {'1' * 40}\n"
    )
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


def test_only_the_hub_has_revisions(folder):
    for name in ("smollm2-135m", folder):
        with pytest.raises(ValueError, match=f"revision='main': {name} is not on the hub"):
            lm.load(name, revision="main")
    model = lm.load(folder)
    assert (model.revision, model.commit) == (None, None)


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    (folder / "own.py").write_text(f"open({str(folder / 'was run')!r}, 'w').close()")
    with pytest.raises(ValueError, match="trust_remote_code"):
        lm.load(folder)
    assert not (folder / "was run").exists()


def test_the_fingerprint_sees_a_single_weight(llama):
    before = lm.fingerprint(llama)
    assert re.fullmatch("[0-9a-f]{64}", before)
    weight = next(llama.model.parameters()).data.view(-1)
    kept = weight[3].item()
    weight[3] += 1
    assert lm.fingerprint(llama) != before
    weight[3] = kept
    assert lm.fingerprint(llama) == before


def test_a_packaged_model_keeps_its_own_errors(monkeypatch):
    def missing(name, accept_licence):
        raise FileNotFoundError("not installed")

    monkeypatch.setattr(weights, "prepare", missing)
    with pytest.raises(FileNotFoundError, match="not installed"):
        lm.load("smollm2-135m")


# -------------------------------------------------------------------------------- global state


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
from course_lib import lm
from state import global_state
before = global_state()
lm.load("smollm2-135m", device="cpu")
after = global_state()
assert after == before, [name for name in before if after[name] != before[name]]
"""
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
