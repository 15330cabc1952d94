"""Binder and the dev container: what their files name is there, and fits the package."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
BINDER = ROOT / ".binder"
PYTHON = SpecifierSet(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
)


@pytest.fixture
def container():
    return json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def targets():
    return set(re.findall(r"^([\w.-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_container_has_a_python_of_the_package(container):
    image, version = container["image"].split(":")
    assert image == "mcr.microsoft.com/devcontainers/python"
    assert version in PYTHON


def test_the_container_is_set_up_by_a_target(container):
    make, target = container["postCreateCommand"].split()
    assert make == "make"
    assert target in targets()


def test_the_container_has_node_for_the_pages(container):
    assert "ghcr.io/devcontainers/features/node:1" in container["features"]
    assert (ROOT / "package-lock.json").exists()


def test_the_container_shows_the_port_of_the_book(container):
    port = re.search(r"^PORT \?= (\d+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert container["forwardPorts"] == [int(port[1])]


def test_the_container_uses_the_environment_of_the_makefile(container):
    path = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert f"{path.removesuffix('/python')}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_binder_has_a_python_of_the_package():
    version = (BINDER / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    assert version in PYTHON


def test_binder_installs_the_pinned_environment():
    lines = (BINDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    included = [BINDER / line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    assert [path.resolve() for path in included] == [ROOT / "requirements.txt"]
    assert included[0].exists()


def test_binder_finishes_with_a_script_that_names_files_that_are_there():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text(encoding="utf-8")
    named = re.findall(r"-r (\S+)", text)
    assert named == ["requirements-data.txt"]
    assert all((ROOT / name).exists() for name in named)
    assert "--no-deps --require-hashes -r" in text


def test_the_pages_have_buttons_for_both():
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert "binderhub_url: https://mybinder.org\n" in config
    assert "colab_url: https://colab.research.google.com\n" in config
