"""The address of the repository: one source; a new one is written everywhere or nowhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from nbformat import v4

from course_lib.book.notebooks import listed, read, write
from course_lib.book.repository import address, install_cell, rewrite

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [path for path in listed(ROOT) if path.suffix == ".ipynb"]
OLD, NEW = "https://github.com/old-owner/the.course", "https://github.com/Someone/my-course"
# what a text says of an address, and whether it is that of the repository
TEXT = {
    "{url}": True,
    "git clone {url}.": True,
    "<{url}/issues>": True,
    "[Colab](https://colab.research.google.com/github/{slug}/blob/main/book/01.ipynb)": True,
    "https://mybinder.org/v2/gh/{slug}/main": True,
    "{url}-2": False,
    "{url}.org": False,
    "https://example.com/{slug}": False,
    "{slug}": False,
}


def text(url, others):
    """All of `TEXT` with the repository at one address and everything else at another."""
    urls = [url if own else others for own in TEXT.values()]
    return "\n".join(
        line.format(url=url, slug=url.removeprefix("https://github.com/"))
        for line, url in zip(TEXT, urls, strict=True)
    )


def make(root, url):
    """A tiny course at an address."""
    files = {
        "_config.yml": f"title: T\nrepository:\n  url: {url}  # here\n  branch: main\n",
        "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/01-one\n",
        "pyproject.toml": f'[project.urls]\nRepository = "{url}"\n',
        "README.md": text(url, OLD),
        "book/intro.md": text(url, OLD),
        "book/unlisted.md": OLD,
        "book/_ext/extension.py": OLD,
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.rstrip() + "\n", encoding="utf-8")
    shown = v4.new_output("execute_result", {"text/plain": "42 → é"}, execution_count=2)
    cells = [
        v4.new_markdown_cell(text(url, OLD), id="a"),
        v4.new_code_cell(install_cell(url), id="b", execution_count=1),
        v4.new_code_cell("42", id="c", execution_count=2, outputs=[shown]),
    ]
    write(
        root / "book" / "01-one.ipynb", json.dumps(v4.new_notebook(cells=cells), indent=1, ensure_ascii=False)
    )
    return root


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


# The book


def github(path):
    return {
        found.rstrip(".") for found in re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", path.read_text())
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_code_cell_installs_the_course(path):
    first = next(cell for cell in read(path).cells if cell.cell_type == "code")
    assert first.source == install_cell(address(ROOT))
    assert first.outputs == []


def test_readme_and_package_carry_the_address():
    assert github(ROOT / "README.md") == github(ROOT / "pyproject.toml") == {address(ROOT)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Repository"] == address(ROOT)


def test_no_other_file_carries_the_address():
    own = address(ROOT).removeprefix("https://github.com/")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    known = {ROOT / name for name in ("_config.yml", "pyproject.toml", "README.md")} | set(listed(ROOT))
    paths = {ROOT / name for name in tracked.stdout.split("\0") if name} - known
    assert [path for path in paths if path.is_file() and own.encode() in path.read_bytes()] == []


# Rewriting


def test_a_new_address_is_written_everywhere_and_nothing_else_changes(tmp_path):
    root, expected = make(tmp_path / "old", OLD), contents(make(tmp_path / "new", NEW))
    changed = rewrite(root, NEW)
    assert contents(root) == expected
    names = {"_config.yml", "pyproject.toml", "README.md", "book/intro.md", "book/01-one.ipynb"}
    assert {path.relative_to(root).as_posix() for path in changed} == names
    assert rewrite(root, NEW) == []
    assert contents(root) == expected


def test_the_book_is_rewritten_there_and_back_to_the_same_bytes(tmp_path):
    for name in ("_config.yml", "_toc.yml", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book").mkdir()
    for path in listed(ROOT):
        shutil.copy(path, tmp_path / "book")
    before = contents(tmp_path)
    assert rewrite(tmp_path, address(ROOT)) == []
    rewrite(tmp_path, NEW)
    assert address(ROOT).encode() not in b"".join(contents(tmp_path).values())
    rewrite(tmp_path, address(ROOT))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "url",
    [
        "",
        "someone/my-course",
        "http://github.com/someone/my-course",
        "https://github.com/someone",
        "https://github.com/someone/my-course/",
        "https://github.com/someone/my-course.git",
        "https://github.com/someone/my-course/tree/main",
        "https://github.com/some one/my-course",
        "https://github.com//my-course",
        "https://example.com/someone/my-course",
        "https://github.com/someone/my-course\n",
    ],
)
def test_a_bad_address_is_rejected_before_anything_is_written(tmp_path, url):
    before = contents(make(tmp_path, OLD))
    with pytest.raises(ValueError, match=r"url='.*': expected https://github\.com/OWNER/NAME"):
        rewrite(tmp_path, url)
    assert contents(tmp_path) == before


def test_a_notebook_without_the_first_cell_is_named_before_anything_is_written(tmp_path):
    path = make(tmp_path, OLD) / "book" / "01-one.ipynb"
    path.write_text(path.read_text().replace("find_spec", "find_it"))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)first code cell of {path}.*git\+{OLD}$"):
        rewrite(tmp_path, NEW)
    assert contents(tmp_path) == before


def test_command_line(tmp_path):
    make(tmp_path, OLD)
    command = [sys.executable, "-m", "course_lib.book.repository"]
    run = subprocess.run([*command, NEW], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split()) == sorted(
        ["README.md", "_config.yml", "book/01-one.ipynb", "book/intro.md", "pyproject.toml"]
    )
    assert address(tmp_path) == NEW
    run = subprocess.run([*command, "my-course"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert "url='my-course': expected https://github.com/OWNER/NAME" in run.stderr


# The cell


def test_the_cell_does_nothing_where_the_course_is_importable(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_line_magic = lambda *arguments, **_: pytest.fail(f"installs: {arguments}")
    result = shell.run_cell(install_cell(NEW))
    result.raise_error()
    assert result.result is None
    assert capsys.readouterr().out == ""


def test_the_cell_installs_the_course_where_it_is_not(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shell = InteractiveShell()
    shell.run_line_magic = lambda *arguments, **_: calls.append(arguments)
    shell.run_cell(install_cell(NEW)).raise_error()
    assert calls == [("pip", f"install -q git+{NEW}")]
