"""Packages that an index would serve, in a folder; and what tests of packaged files ask of a cache."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from course_lib import packages
from course_lib.packages import Package


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find wheels in this folder only."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def build(folder: Path, package: Package, files: dict[str, bytes | str]) -> None:
    """Write the wheel of a package with these files in its module."""
    name, version = package.requirement.split("==")
    info = f"{package.module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{package.module}-{version}-py3-none-any.whl", "w") as wheel:
        for file, content in files.items():
            wheel.writestr(f"{package.module}/{file}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def sha256(content: bytes | str) -> str:
    """SHA-256 of bytes, or of a text in UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def left_in(cache: Path) -> set[str]:
    """What is in the cache, locks and stamps apart."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock" and path.name != "stamps"}


def flip(path: Path, at: int | None = None, by: int = 1) -> None:
    """Change a byte of a file (in its middle), without a trace in its size or its time of change."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at % len(content)] ^= by
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    """Set a file's time of change a second back; its content stays."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on, in order."""
    hashed, sha256 = [], packages._sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr(packages, "_sha256", counted)
    return hashed


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write to the files and folders in `folder`, not even root, who is someone else meanwhile."""
    root = os.geteuid() == 0
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
