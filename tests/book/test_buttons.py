"""Which buttons a page has: without an address of the repository, with one, and in a clone.

A book of two pages is built with the configuration and the extensions of this one.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import v4

pytest.importorskip("jupyter_book", reason="jupyter-book is not installed")
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
COURSE, FORK = "https://github.com/Someone/my-course", "https://github.com/someone-else/fork"
LAUNCH = ("colab.research.google.com", "mybinder.org")


@pytest.fixture
def book(tmp_path):
    """Writes a book at an address."""

    def make(url: str) -> Path:
        config = (ROOT / "_config.yml").read_text(encoding="utf-8")
        (tmp_path / "_config.yml").write_text(re.sub(r"(?<=^  url: ).*$", f'"{url}"', config, flags=re.M))
        (tmp_path / "_toc.yml").write_text(
            "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/part/one\n"
        )
        (tmp_path / "references.bib").touch()
        for folder in ("assets", "_ext"):
            shutil.copytree(ROOT / "book" / folder, tmp_path / "book" / folder)
        (tmp_path / "book" / "intro.md").write_text("# Intro\n\nText.\n")
        (tmp_path / "book" / "part").mkdir()
        notebook = v4.new_notebook(
            cells=[v4.new_markdown_cell("# One\n\n## Two"), v4.new_code_cell("1 + 1", execution_count=1)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        (tmp_path / "book" / "part" / "one.ipynb").write_text(json.dumps(notebook))
        return tmp_path

    return make


def clone(root, remote):
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=root, check=True)


def build(root):
    """What the build prints, and the addresses that the buttons of its two pages lead to."""
    config = (root / "_config.yml").read_bytes()
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        ".",
        "--all",
        "-W",
        "--keep-going",
        "-n",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "_config.yml").read_bytes() == config
    links = []
    for page in ("intro", "part/one"):
        html = (root / "_build" / "html" / "book" / f"{page}.html").read_text(encoding="utf-8")
        buttons = BeautifulSoup(html, "html.parser").select_one(".article-header-buttons")
        assert buttons.select_one(".btn-download-source-button")
        links.append([link["href"] for link in buttons.select("a[href]") if "://" in link["href"]])
    return done.stdout, *links


def links_to(url, page):
    """Where the buttons of a page lead."""
    slug, name = url.removeprefix("https://github.com/"), page.replace(".ipynb", "").replace(".md", "")
    source = [
        url,
        f"{url}/edit/main/{page}",
        f"{url}/issues/new?title=Issue%20on%20page%20%2F{name}.html&body=Your%20issue%20content%20here.",
    ]
    launch = [
        f"https://mybinder.org/v2/gh/{slug}/main?urlpath=lab/tree/{page}",
        f"https://colab.research.google.com/github/{slug}/blob/main/{page}",
    ]
    return [*launch, *source] if page.endswith(".ipynb") else source


@pytest.mark.slow
def test_without_an_address_no_button_leads_to_another_host(book):
    printed, intro, one = build(book(""))
    assert intro == one == []
    assert "origin" not in printed


@pytest.mark.slow
def test_in_a_clone_the_buttons_lead_to_its_origin(book):
    root = book("")
    clone(root, "git@github.com:someone-else/fork.git")
    printed, intro, one = build(root)
    assert intro == links_to(FORK, "book/intro.md")
    assert one == links_to(FORK, "book/part/one.ipynb")
    assert [line for line in printed.splitlines() if f"the buttons lead to {FORK}" in line]


@pytest.mark.slow
def test_the_address_of_the_configuration_wins(book):
    root = book(COURSE)
    clone(root, FORK)
    printed, intro, one = build(root)
    assert intro == links_to(COURSE, "book/intro.md")
    assert one == links_to(COURSE, "book/part/one.ipynb")
    assert "origin" not in printed
