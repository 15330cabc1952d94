"""The tests of what changed since the last commit on main: `python -m course_lib.book.changed`.

A changed test is one of them; a changed module has the tests that import it, a changed notebook those of all
notebooks; the tests of the house always belong to them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_ALWAYS = "tests/test_house.py"
_NOTEBOOKS = "tests/book/test_notebooks.py"
_IMPORT = re.compile(r"^\s*(?:from|import) (course_lib[\w.]*)(?: import ([^\n(]+|\([^)]*\)))?", re.MULTILINE)


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
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    found = {_ALWAYS}
    if any(file.endswith(".ipynb") for file in files):
        found.add(_NOTEBOOKS)
    for path in sorted(root.glob("tests/**/test_*.py")):
        name = path.relative_to(root).as_posix()
        if name in files or _imported(path.read_text(encoding="utf-8")) & modules:
            found.add(name)
    return sorted(name for name in found if not name.startswith(("tests/site/", "tests/colab/")))


def _imported(text: str) -> set[str]:
    """All modules of the library that an import statement of a test may mean."""
    found = set()
    for module, names in _IMPORT.findall(text):
        found |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
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
