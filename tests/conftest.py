import os

os.environ.setdefault("TQDM_DISABLE", "1")

import families
import hypothesis
import pytest

from course_lib import lm

# a machine that is busy is slow, and not wrong
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session")
def real() -> lm.LanguageModel:
    """The course's default model."""
    return lm.load(device="cpu")


@pytest.fixture(scope="session", params=families.FAMILIES)
def tiny(request, tmp_path_factory) -> lm.LanguageModel:
    """A tiny random model of each architecture."""
    return lm.load(str(families.make(request.param, tmp_path_factory.mktemp(request.param))), device="cpu")


@pytest.fixture
def separate(tiny):
    """The tiny models whose keys and values have weights of their own."""
    if not any(name.endswith("k_proj.weight") for name, _ in tiny.model.named_parameters()):
        pytest.skip("keys and values are parts of one matrix")
    return tiny


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> lm.LanguageModel:
    """A tiny random model of one architecture, for what does not depend on it."""
    return lm.load(str(families.make("llama", tmp_path_factory.mktemp("llama"))), device="cpu")


@pytest.fixture(scope="session")
def roomy(tmp_path_factory) -> lm.LanguageModel:
    """A tiny random model that reads long prompts."""
    model = lm.load(str(families.make("llama", tmp_path_factory.mktemp("roomy"))), device="cpu")
    model.model.config.max_position_embeddings = 4096  # positions are rotations: there is no table to outgrow
    return model


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    from course_lib.book.browser import chromium

    try:
        with chromium() as running:
            yield running
    except FileNotFoundError as error:
        pytest.skip(str(error))
