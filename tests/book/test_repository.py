"""The address of the repository: none at first; one is written everywhere or nowhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from nbformat import v4

from course_lib.book.files import listed, read, write
from course_lib.book.repository import address, install_cell, origin, rewrite

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [path for path in listed(ROOT) if path.suffix == ".ipynb"]
NEW, OTHER = "https://github.com/Someone/my-course", "https://github.com/someone-else/the.course"
EXAMPLE = "https://github.com/OWNER/NAME"  # of an address
PLACES = ("_config.yml", "pyproject.toml", "README.md")
TINY = {
    "_config.yml": 'title: T\nrepository:\n  url: ""\n  branch: main\n',
    "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/part/one\n",
    "pyproject.toml": '[project]\nname = "t"\n\n[project.urls]\n\n[tool.t]\na = 1\n',
    "README.md": "```\n# in a clone of this repository\nmake book\n```\n<!-- hosted -->\n<!-- /hosted -->\n",
    "book/intro.md": f"# T\n{NEW}\n",
}


@pytest.fixture
def tiny(tmp_path):
    """A tiny course that has no address."""
    for name, content in TINY.items():
        write(tmp_path / name, content)
    shown = v4.new_output("execute_result", {"text/plain": "42 → é"}, execution_count=2)
    cells = [
        v4.new_markdown_cell("# One", id="a"),
        v4.new_code_cell(install_cell(""), id="b", execution_count=1),
        v4.new_code_cell("42", id="c", execution_count=2, outputs=[shown]),
    ]
    text = json.dumps(v4.new_notebook(cells=cells), indent=1, ensure_ascii=False)
    write(tmp_path / "book" / "part" / "one.ipynb", text)
    return tmp_path


@pytest.fixture
def copy(tmp_path):
    """The files of this course that have to do with its address."""
    for path in [*(ROOT / name for name in (*PLACES, "_toc.yml")), *listed(ROOT)]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def contents(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def first_cell(path):
    return next(cell for cell in read(path).cells if cell.cell_type == "code")


def repository(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"].get(
        "Repository", ""
    )


# This course


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_code_cell_installs_the_course(path):
    first = first_cell(path)
    assert first.source == install_cell(address(ROOT))
    assert first.outputs == []


def test_readme_and_package_carry_the_address_or_none():
    assert repository(ROOT) == address(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"https://github\.com/[\w.-]+/[\w-]+", readme)
    assert set(named) <= {address(ROOT), EXAMPLE}


def test_no_other_file_carries_the_address():
    if not (own := address(ROOT).removeprefix("https://github.com/")):
        pytest.skip("there is no address")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    known = {*(ROOT / name for name in PLACES), *NOTEBOOKS}
    paths = {ROOT / name for name in tracked.stdout.split("\0") if name} - known
    assert [path for path in paths if path.is_file() and own.encode() in path.read_bytes()] == []


def test_this_course_gets_an_address_and_another_one(copy):
    rewrite(copy, NEW)
    first = contents(copy)
    assert address(copy) == repository(copy) == NEW
    assert {first_cell(path).source for path in copy.rglob("*.ipynb")} == {install_cell(NEW)}
    rewrite(copy, OTHER)
    assert b"Someone/my-course" not in b"".join(contents(copy).values())
    rewrite(copy, NEW)
    assert contents(copy) == first


def test_this_course_with_its_own_address_stays_as_it_is(copy):
    if not address(ROOT):
        pytest.skip("there is no address")
    before = contents(copy)
    assert rewrite(copy, address(ROOT)) == []
    assert contents(copy) == before


# Rewriting


def test_an_address_is_written_everywhere_and_nothing_else_changes(tiny):
    before = contents(tiny)
    changed = rewrite(tiny, NEW)
    after = contents(tiny)
    names = {"_config.yml", "pyproject.toml", "README.md", "book/part/one.ipynb"}
    assert {path.relative_to(tiny).as_posix() for path in changed} == names
    assert {name for name in before if after[name] != before[name]} == names
    assert (address(tiny), repository(tiny)) == (NEW, NEW)
    assert after["_config.yml"].endswith(b"\n  branch: main\n")
    assert after["pyproject.toml"].endswith(b"\n[tool.t]\na = 1\n")
    readme = after["README.md"].decode()
    assert f"```\ngit clone {NEW} course && cd course\nmake book\n```" in readme
    assert "https://colab.research.google.com/github/Someone/my-course)" in readme
    assert "https://mybinder.org/v2/gh/Someone/my-course/main?urlpath=lab/tree/book" in readme
    cells = [json.loads(text["book/part/one.ipynb"])["cells"] for text in (before, after)]
    assert "".join(cells[1][1].pop("source")) == install_cell(NEW)
    assert "".join(cells[0][1].pop("source")) == install_cell("")
    assert cells[0] == cells[1]
    assert rewrite(tiny, NEW) == []
    assert contents(tiny) == after


def test_an_address_that_was_written_by_hand_is_replaced(tiny):
    path = tiny / "book" / "part" / "one.ipynb"
    path.write_text(path.read_text().replace('REPOSITORY = \\"\\"', f'REPOSITORY = \\"{OTHER}\\"'))
    assert first_cell(path).source == install_cell(OTHER)
    rewrite(tiny, NEW)
    assert first_cell(path).source == install_cell(NEW)


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
def test_a_bad_address_is_rejected_before_anything_is_written(tiny, url):
    before = contents(tiny)
    with pytest.raises(ValueError, match=r"url='.*': expected https://github\.com/OWNER/NAME"):
        rewrite(tiny, url)
    assert contents(tiny) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("book/part/one.ipynb", "find_spec", "find_it", r"(?s)first code cell of .*one\.ipynb.*REPOSITORY"),
        ("_config.yml", "  url:", "  address:", r"_config\.yml needs one place.*\nrepository:\n  url:"),
        ("pyproject.toml", "[project.urls]", "[project.links]", r"pyproject\.toml needs one place"),
        ("README.md", "# in a clone", "# in a copy", r"README\.md needs one place.*\n# in a clone"),
        ("README.md", "<!-- /hosted -->", "", r"README\.md needs one place.*\n<!-- hosted -->"),
    ],
)
def test_a_file_without_a_place_is_named_before_anything_is_written(tiny, name, old, new, message):
    path = tiny / name
    path.write_text(path.read_text().replace(old, new))
    before = contents(tiny)
    with pytest.raises(ValueError, match=message):
        rewrite(tiny, NEW)
    assert contents(tiny) == before


def test_command_line(tiny):
    command = [sys.executable, "-m", "course_lib.book.repository"]
    run = subprocess.run([*command, NEW], cwd=tiny, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["_config.yml", "pyproject.toml", "README.md", "book/part/one.ipynb"]
    assert address(tiny) == NEW
    run = subprocess.run([*command, "my-course"], cwd=tiny, capture_output=True, text=True)
    assert run.returncode == 2
    assert "url='my-course': expected https://github.com/OWNER/NAME" in run.stderr


# A clone


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        (NEW, NEW),
        (f"{NEW}.git", NEW),
        (f"{OTHER}/", OTHER),
        ("https://user:token@github.com/Someone/my-course.git", NEW),
        ("git@github.com:Someone/my-course.git", NEW),
        ("git@github.com:Someone/my-course", NEW),
        ("ssh://git@github.com/Someone/my-course.git", NEW),
        ("https://gitlab.com/Someone/my-course.git", ""),
        ("https://example.com/github.com/Someone/my-course", ""),
        ("/srv/github.com/Someone/my-course.git", ""),
        (None, ""),
    ],
)
def test_origin_of_a_clone(tmp_path, remote, expected):
    assert origin(tmp_path) == ""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if remote:
        subprocess.run(["git", "remote", "add", "origin", remote], cwd=tmp_path, check=True)
    assert origin(tmp_path) == expected
    (tmp_path / "inside").mkdir()
    assert origin(tmp_path / "inside") == ""


def test_there_is_no_origin_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin(tmp_path) == ""


# The cell


@pytest.fixture
def shell():
    """A shell of IPython whose %pip keeps what it is told."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.installed = []
    shell.register_magic_function(shell.installed.append, magic_name="pip")
    return shell


@pytest.mark.parametrize("url", ["", NEW])
def test_the_cell_does_nothing_where_the_course_is_importable(shell, capsys, url):
    result = shell.run_cell(install_cell(url))
    result.raise_error()
    assert result.result is None
    assert capsys.readouterr().out == ""
    assert shell.installed == []


def test_the_cell_installs_the_course_where_it_is_not(shell, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shell.run_cell(install_cell(NEW)).raise_error()
    assert shell.installed == [f"install -q git+{NEW}"]


def test_the_cell_asks_for_an_address_where_there_is_none(shell, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"address of the course is not set.*into REPOSITORY above"):
        shell.run_cell(install_cell("")).raise_error()
    assert shell.installed == []
