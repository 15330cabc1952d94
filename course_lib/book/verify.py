"""Are the packaged weights, embeddings and texts intact? `python -m course_lib.book.verify`."""

from __future__ import annotations

import sys
from pathlib import Path

from course_lib import packages
from course_lib.data import texts
from course_lib.lm import embeddings, weights


def verify() -> dict[Path, str | None]:
    """Hashes everything again, whatever its stamp says; what is damaged is made anew when it is next loaded.

    Returns:
        For every file or folder what is wrong with it, in words, or None.
    """
    wanted = [part for quantised in weights.PACKAGES.values() for part in quantised.parts]
    wanted += [embeddings.PACKAGE, *(corpus.package for corpus in texts.CORPORA.values())]
    found = {
        path: packages.damage(package, path, anew=True)
        for package in wanted
        for path in packages.places(package)
    }
    folders = [folder for folder in map(weights.converted, weights.PACKAGES) if folder.exists()]
    return found | {folder: weights.damage(folder, anew=True) for folder in folders}


def main() -> int:
    """Prints a line for each; 1 if one is damaged."""
    found = verify()
    for path, wrong in found.items():
        print(f"DAMAGED  {wrong}" if wrong else f"as it should be  {path}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
