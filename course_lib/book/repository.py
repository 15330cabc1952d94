"""The address of the repository: `repository.url` of `_config.yml`, and every other place that carries it.

`python -m course_lib.book.repository https://github.com/OWNER/NAME` writes it into all of them, in place of
another one or of none.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from course_lib.book.files import listed, write

_NAME = r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+(?<!\.git)"
_URL = re.compile(rf"https://github\.com/{_NAME}")
_REMOTE = re.compile(rf"(?:(?:https|ssh)://(?:[^@/]+@)?github\.com/|git@github\.com:)({_NAME})(?:\.git)?/?")
_NONE = '""'  # in YAML and Python
_CELL = """\
from importlib.util import find_spec

# The course on GitHub, https://github.com/OWNER/NAME; make repository URL=… writes it into all notebooks
REPOSITORY = ""
if not find_spec("course_lib"):  # as on Colab
    if not REPOSITORY:
        raise ValueError(
            "The address of the course is not set. Write that of the repository which holds this notebook "
            "into REPOSITORY above (on Colab, OWNER/NAME stands after /github/ in the address bar)."
        )
    %pip install -q git+{REPOSITORY}"""
_NOT_HOSTED = """\
**Colab and Binder** open notebooks of a repository on GitHub. Put a copy of this one there, run `make \
repository URL=https://github.com/OWNER/NAME` in it, commit and push. Then the pages have a rocket at the \
top of every chapter, which opens it in either of them, and the links stand here. A notebook that is opened \
on Colab before that asks for the address in its first cell."""
_HOSTED = """\
**Colab.** The rocket at the top of every chapter opens it in Colab, and [this \
list](https://colab.research.google.com/github/NAME) has all of them. The first cell installs the course and \
replaces none of Colab's packages; weights and texts are fetched when they are first used. That adds about a \
minute to a chapter.

**Binder.** [mybinder.org](https://mybinder.org/v2/gh/NAME/main?urlpath=lab/tree/book) opens JupyterLab with \
everything installed and the weights converted. It offers less memory than Colab."""


class _Place(NamedTuple):
    """A place in a file: what is there with any address or none, and what is there with a given one or ""."""

    file: str
    pattern: str
    text: Callable[[str], str]


_PLACES = (
    _Place(
        "_config.yml",
        r"^repository:\n  url:.*$",
        lambda url: f"repository:\n  url: {url or _NONE}  # make repository URL=… writes it",
    ),
    _Place(
        "pyproject.toml",
        r"^\[project\.urls\]\n(?:Repository = .*\n)?",
        lambda url: "[project.urls]\n" + (f'Repository = "{url}"\n' if url else ""),
    ),
    _Place(
        "README.md",
        r"^(?:# in a clone of this repository|git clone \S+ course && cd course)$",
        lambda url: f"git clone {url} course && cd course" if url else "# in a clone of this repository",
    ),
    _Place(
        "README.md",
        r"^<!-- hosted -->$[\s\S]*?^<!-- /hosted -->$",
        lambda url: f"<!-- hosted -->\n{_hosted(url)}\n<!-- /hosted -->",
    ),
)


def _hosted(url: str) -> str:
    return _HOSTED.replace("NAME", url.removeprefix("https://github.com/")) if url else _NOT_HOSTED


def install_cell(url: str) -> str:
    """Writes the first code cell of every notebook: it installs the course where it is not importable.

    Args:
        url: The address of the repository, or "": then it says where to write one.
    """
    return _CELL.replace(_NONE, f'"{url}"', 1)


def address(root: Path) -> str:
    """Reads the address of the repository from `_config.yml`; "" if there is none."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] or ""


def origin(root: Path) -> str:
    """Finds the address on GitHub that a clone has as its remote `origin`; "" if there is none.

    Args:
        root: Folder of the clone; a folder inside one has no origin.
    """
    if not (root / ".git").exists():
        return ""
    command = ["git", "remote", "get-url", "origin"]
    try:
        output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # no git
        return ""
    found = _REMOTE.fullmatch(output.strip())
    return f"https://github.com/{found[1]}" if found else ""


def rewrite(root: Path, url: str) -> list[Path]:
    """Writes an address into every place that carries it; outputs of notebooks stay.

    Args:
        root: Folder of `_config.yml`.
        url: As in "https://github.com/OWNER/NAME".

    Returns:
        The files that changed.

    Raises:
        ValueError: The address is not of that form, a file has no place for it, or the first code cell of a
            notebook is not that of `install_cell`. Nothing is written then.
    """
    if not _URL.fullmatch(url):
        raise ValueError(
            f"url={url!r}: expected https://github.com/OWNER/NAME, without .git or a slash at the end "
            "(Colab and Binder open repositories of GitHub)"
        )
    paths = [root / name for name in dict.fromkeys(place.file for place in _PLACES)]
    paths += [path for path in listed(root) if path.suffix == ".ipynb"]
    before = {path: path.read_text(encoding="utf-8") for path in paths}
    after = dict(before)
    for file, pattern, text in _PLACES:
        path = root / file
        after[path], count = re.subn(pattern, text(url), after[path], flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{path} needs one place for the address, as in\n{text('')}")
    for path in paths:
        if path.suffix == ".ipynb":
            after[path] = _notebook(path, before[path], url)
    changed = [path for path in paths if after[path] != before[path]]
    for path in changed:
        write(path, after[path])
    return changed


def _notebook(path: Path, text: str, url: str) -> str:
    """Writes an address into the text of a notebook."""
    notebook = json.loads(text)
    cell = next((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), {"source": ""})
    source = re.sub(
        r'^REPOSITORY = ".*?"', f'REPOSITORY = "{url}"', "".join(cell["source"]), flags=re.MULTILINE
    )
    if source != install_cell(url):
        raise ValueError(f"the first code cell of {path} must be\n{install_cell('')}")
    cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the address given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.repository", description=__doc__)
    parser.add_argument("url", metavar="URL")
    try:
        changed = rewrite(Path.cwd(), parser.parse_args().url)
    except ValueError as error:
        parser.error(str(error))
    print(*(path.relative_to(Path.cwd()) for path in changed), sep="\n")


if __name__ == "__main__":
    main()
