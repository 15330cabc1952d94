"""The address of the repository: `repository.url` of `_config.yml`, and every other place that carries it.

`python -m course_lib.book.repository https://github.com/OWNER/NAME` writes a new one into all of them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
import yaml

from course_lib.book.files import listed, write

_PLACES = ("_config.yml", "pyproject.toml", "README.md")  # and the pages of `_toc.yml`
_URL = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+)(?<!\.git)")
_BEFORE = r"(//github\.com/|/github/|/gh/)"  # OWNER/NAME, in addresses of GitHub, Colab and Binder


def install_cell(url: str) -> str:
    """Writes the first code cell of every notebook: it installs the course where it is not importable."""
    return f"""\
from importlib.util import find_spec

if not find_spec("course_lib"):  # as on Colab
    %pip install -q git+{url}"""


def address(root: Path) -> str:
    """Reads the address of the repository from `_config.yml`."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def rewrite(root: Path, url: str) -> list[Path]:
    """Writes a new address into every place that carries the old one; outputs of notebooks stay.

    Args:
        root: Folder of `_config.yml`.
        url: As in "https://github.com/OWNER/NAME".

    Returns:
        The files that changed.

    Raises:
        ValueError: The address is not of that form, or the first code cell of a notebook is not
            `install_cell` of the old one. Nothing is written then.
    """
    new, old = _slug(url), _slug(address(root))
    pattern = re.compile(rf"{_BEFORE}{re.escape(old)}(?!\.?[\w-])")
    changed = {}
    for path in [*(root / name for name in _PLACES), *listed(root)]:
        text = path.read_text(encoding="utf-8")
        changed[path] = pattern.sub(rf"\g<1>{new}", text)
        if path.suffix == ".ipynb" and _first_code(changed[path]) != install_cell(url):
            raise ValueError(f"the first code cell of {path} must be\n{install_cell(address(root))}")
        if changed[path] == text:
            del changed[path]
    for path, text in changed.items():
        write(path, text)
    return list(changed)


def _slug(url: str) -> str:
    if not (found := _URL.fullmatch(url)):
        raise ValueError(
            f"url={url!r}: expected https://github.com/OWNER/NAME, without .git or a slash at the end "
            "(Colab and Binder open repositories of GitHub)"
        )
    return found[1]


def _first_code(notebook: str) -> str:
    cells = nbformat.reads(notebook, as_version=4).cells
    return next((cell.source for cell in cells if cell.cell_type == "code"), "")


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
