"""Begins a chapter that already passes all tests: `python -m course_lib.book.chapter 13-my-topic`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from string import Template

import jupytext
import nbformat

from course_lib.book.files import write
from course_lib.book.notebooks import execute
from course_lib.book.repository import address, install_cell

_TEMPLATES = Path(__file__).with_name("template")


def begin(root: Path, slug: str, module: str = "") -> list[Path]:
    """Writes a notebook, its concept module, its exercises and their tests, and lists the notebook.

    Args:
        root: Folder of `_toc.yml`.
        slug: Two digits and words, as in "13-my-topic".
        module: Name of the concept module; by default the words.

    Returns:
        The files, the notebook first; it is not executed yet.

    Raises:
        ValueError: A malformed slug or module.
        FileExistsError: The number is taken, or a file is there already.
    """
    if not (found := re.fullmatch(r"(\d\d)-([a-z0-9]+(?:-[a-z0-9]+)*)", slug)):
        raise ValueError(f'slug must be two digits and words, as in "13-my-topic", got {slug!r}')
    nn, words = found.groups()
    module = module or words.replace("-", "_")
    if not re.fullmatch(r"[a-z]\w*", module):
        raise ValueError(f'module must be a name as in "my_topic", got {module!r}')
    notebook = root / "book" / f"{slug}.ipynb"
    files = {
        "module": root / "course_lib" / f"{module}.py",
        "exercises": root / "course_lib" / "exercises" / f"{module}.py",
        "test": root / "tests" / f"test_{module}.py",
    }
    for path in [*root.glob(f"book/{nn}-*.ipynb"), *filter(Path.exists, files.values())]:
        raise FileExistsError(f"{path.relative_to(root)} is there already")

    title = words.replace("-", " ").capitalize() + "?"
    names = {"nn": nn, "number": int(nn), "module": module, "title": title}
    for kind, path in files.items():
        write(path, _fill(kind, **names))
    text = _fill("notebook", **names, install=install_cell(address(root)))
    cells = jupytext.reads(text, fmt="py:percent")
    cells.metadata = {"course": {"question": title}}
    write(notebook, nbformat.writes(cells))
    _list(root / "_toc.yml", slug)
    return [notebook, *files.values()]


def _fill(kind: str, **names: object) -> str:
    return Template((_TEMPLATES / f"{kind}.txt").read_text(encoding="utf-8")).substitute(names)


def _list(toc: Path, slug: str) -> None:
    """Lists a chapter behind those with smaller numbers."""
    lines = toc.read_text(encoding="utf-8").splitlines()
    names = (re.search(r"book/(\d\d-\S+)", line) for line in lines)
    earlier = [i for i, name in enumerate(names) if name and name[1] < slug]
    after = earlier[-1] if earlier else lines.index("chapters:")
    lines.insert(after + 1, f"  - file: book/{slug}")
    write(toc, "\n".join(lines))


def main() -> int:
    """Begins the chapter named on the command line, and executes it."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.chapter", description=__doc__)
    parser.add_argument("slug", help="number and words, as in 13-my-topic")
    parser.add_argument("--module", default="", help="name of its concept module (default: the words)")
    options = parser.parse_args()
    try:
        paths = begin(Path.cwd(), options.slug, options.module)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-q", *paths], check=True
    )  # names differ in length
    cost = execute(paths[0])
    print(f"{paths[0].name}: {cost.seconds:.1f} s. Next: make runtimes CHAPTER={options.slug[:2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
