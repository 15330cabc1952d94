"""The tests of what changed since the last commit on main: `python -m course_lib.book.changed`.

A changed test is one of them; a changed module has the tests that import it, directly or by what they import,
and the test of its name; a changed table or checkpoint those of its folder, a changed notebook those of all
notebooks. The tests of the house always belong to them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

_ALWAYS = "tests/test_house.py"
_NOTEBOOKS = "tests/book/test_notebooks.py"


def changed(root: Path) -> list[str]:
    """Files that differ from the last commit that this branch has in common with main, untracked ones too.

    Raises:
        RuntimeError: `root` is not a checkout of git, or git fails.
    """
    base = (
        _git(root, "merge-base", "HEAD", "main").strip() if _git(root, "branch", "--list", "main") else "HEAD"
    )
    differing = _git(root, "diff", "--name-only", base).splitlines()
    return sorted({*differing, *_git(root, "ls-files", "--others", "--exclude-standard").splitlines()})


def tests_of(root: Path, files: list[str]) -> list[str]:
    """The tests of some files, as paths from `root`, in order."""
    differ, imports = set(files), _imports(root)
    found = {_ALWAYS}
    if any(file.endswith(".ipynb") for file in files):
        found.add(_NOTEBOOKS)
    for name in imports:
        path = Path(name)
        if not path.name.startswith("test_"):
            continue
        room = Path("course_lib", *path.parts[1:-1])
        run = (room / path.name.removeprefix("test_")).as_posix()  # perhaps by its command line
        data = any(room in Path(file).parents and not file.endswith(".py") for file in files)
        if (data and room != Path("course_lib")) or _reached(imports, [name, run]) & differ:
            found.add(name)
    return sorted(name for name in found if not name.startswith(("tests/site/", "tests/colab/")))


def _imports(root: Path) -> dict[str, set[str]]:
    """Files of library and tests, each with those it imports; a test has each `conftest.py` above it."""
    paths = [
        path.relative_to(root)
        for folder in ("course_lib", "tests")
        for path in root.glob(f"{folder}/**/*.py")
    ]
    named = {_module(path): path.as_posix() for path in paths}
    found = {}
    for path in paths:
        of = {named[name] for name in _names((root / path).read_text(encoding="utf-8"), named)}
        if path.parts[0] == "tests":
            of |= {(folder / "conftest.py").as_posix() for folder in path.parents}
        found[path.as_posix()] = of
    return found


def _module(path: Path) -> str:
    """What an import statement calls a file; helpers of tests have no package."""
    parts = path.with_suffix("").parts
    return parts[-1] if parts[0] == "tests" else ".".join(part for part in parts if part != "__init__")


def _names(text: str, named: Collection[str]) -> Iterator[str]:
    """Modules among `named` that some code imports; a package, if what it is asked for is not a module."""
    for asked in imported(text):
        yield from [name for name in (asked, asked.rpartition(".")[0]) if name in named][:1]


def imported(text: str) -> Iterator[str]:
    """The dotted names that some code imports: a.b for `import a.b` and for `from a import b`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reached(imports: Mapping[str, set[str]], start: list[str]) -> set[str]:
    """Some files with all that they import, and what that imports."""
    found, new = set(), set(start)
    while new:
        found |= new
        new = {name for file in new for name in imports.get(file, ())} - found
    return found


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(words)} in {root}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Prints the tests of what changed in the current folder."""
    print(*tests_of(Path.cwd(), changed(Path.cwd())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
