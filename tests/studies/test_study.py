"""A study is measured unit by unit, goes on where it was killed, and is shared out over processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import families
import pytest

from course_lib.studies import __main__ as command
from course_lib.studies import results
from course_lib.studies.study import MEASURED_BY, Study, Unit, run, slug

# measured in processes of their own: a unit takes a moment, and says that it was measured
SCRIPT = """
import sys, time
from pathlib import Path
from course_lib import lm
from course_lib.studies.study import Study, Unit, run
folder, out, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def rows(i):
    time.sleep(seconds)
    (out.parent / f"unit {i}").open("a").write("x")
    return [{"unit": i, "row": j} for j in range(2)]
units = lambda model: [Unit(str(i), lambda i=i: rows(i)) for i in range(5)]
run(Study("slow", {"seed": 0}, units), lm.load(folder, device="cpu"), "python -m x", out)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return families.make("llama", tmp_path_factory.mktemp("model") / "tiny")


def study(n=3, seed=0, measured=None):
    def rows(i):
        if measured is not None:
            measured.append(i)
        return [{"unit": i, "row": j, "pair": (i, j)} for j in range(2)]

    units = [Unit(str(i), lambda i=i: rows(i)) for i in range(n)]
    return Study("small", {"seed": seed, "shares": (0.1, 0.2)}, lambda model: units)


def test_rows_and_where_they_come_from(llama, tmp_path):
    path = run(study(), llama, "python -m x", tmp_path / "new")
    found = results.load(path)
    assert path.name == f"small-{slug(llama.name)}.json"
    assert [(row["unit"], row["row"]) for row in found.rows] == [(i, j) for i in range(3) for j in range(2)]
    assert (found.model, found.revision, found.commit) == (llama.name, None, None)
    assert (found.command, found.device, found.dtype) == ("python -m x", "cpu", "float32")
    assert found.settings == {"seed": 0, "shares": [0.1, 0.2]}
    assert found.versions.keys() == {"python", *MEASURED_BY}
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing is left behind


def test_a_unit_that_fails_leaves_the_others(llama, tmp_path):
    def fail():
        raise RuntimeError("no more")

    measured = []
    whole = study(measured=measured)
    broken = Study("small", whole.settings, lambda model: [*whole.units(model)[:2], Unit("2", fail)])
    with pytest.raises(RuntimeError, match="no more"):
        run(broken, llama, "python -m x", tmp_path)
    assert not list(tmp_path.glob("*.json"))
    rows = results.load(run(whole, llama, "python -m x", tmp_path)).rows
    assert measured == [0, 1, 2]  # each once
    assert rows == results.load(run(study(), llama, "python -m x", tmp_path / "at once")).rows


def test_other_settings_do_not_go_on(llama, tmp_path):
    (tmp_path / f"small-{slug(llama.name)}.0.part").write_text(
        json.dumps({"model": llama.name, "settings": {"seed": 1}}) + "\n"
    )
    with pytest.raises(ValueError, match=r"interrupted run with other settings, .*'seed': 1"):
        run(study(), llama, "python -m x", tmp_path)


def test_a_line_that_was_cut_off_is_measured_again(llama, tmp_path):
    path = run(study(), llama, "python -m x", tmp_path)
    about = {
        key: getattr(results.load(path), key) for key in ("model", "revision", "commit", "dtype", "settings")
    }
    part = path.with_suffix(".1.part")  # of another process, with one unit and the beginning of the next
    part.write_text(f'{json.dumps(about)}\n{{"unit": "1", "rows": []}}\n{{"unit": "2", "ro')
    measured = []
    found = results.load(run(study(measured=measured), llama, "python -m x", tmp_path))
    assert measured == [0, 2]
    assert {row["unit"] for row in found.rows} == {0, 2}
    assert not part.exists()


def test_keys_are_different(llama, tmp_path):
    twice = Study("small", {}, lambda model: [Unit("a", list), Unit("a", list)])
    with pytest.raises(ValueError, match="expected different keys"):
        run(twice, llama, "python -m x", tmp_path)


def test_names_of_models_as_file_names():
    names = ["smollm2-135m", "a/m", "b/m", "a--m", "/a/m", "a/m-1", "a-/m"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("a/m") == slug("./a/m/") == "a--m"
    assert slug("smollm2-135m") == "smollm2-135m"
    assert not any("/" in slug(name) for name in names)


def started(folder, out, seconds, *launcher):
    (out.parent / "script.py").write_text(SCRIPT)
    words = [sys.executable, *launcher, out.parent / "script.py", folder, out, str(seconds)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, words)), env=environment, cwd=out.parent)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(folder, tmp_path):
    out = tmp_path / "out"
    process, give_up = started(folder, out, 0.7), time.monotonic() + 120
    while not (tmp_path / "unit 1").exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list(out.glob("*.json"))
    assert started(folder, out, 0).wait() == 0
    (path,) = out.iterdir()
    assert [(row["unit"], row["row"]) for row in results.load(path).rows] == [
        (i, j) for i in range(5) for j in range(2)
    ]
    times = [len((tmp_path / f"unit {i}").read_text()) for i in range(5)]
    assert times[0] == 1
    assert sum(times) <= 6  # at most the one that was under way is measured again


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(folder, tmp_path):
    for name, launcher in (
        ("one", ()),
        ("two", ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")),
    ):
        (tmp_path / name).mkdir()
        assert started(folder, tmp_path / name / "out", 0, *launcher).wait() == 0
    one, two = (results.load(next((tmp_path / name / "out").iterdir())) for name in ("one", "two"))
    assert one.rows == two.rows
    assert [len((tmp_path / "two" / f"unit {i}").read_text()) for i in range(5)] == [1] * 5


def test_the_command_measures_a_study(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(command.STUDIES, "task-vectors", study())
    words = ["task-vectors", "--model", str(folder), "--dtype", "bfloat16", "--device", "cpu"]
    command.main([*words, "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"wrote {path}\n"
    found = results.load(path)
    assert found.command == f"python -m course_lib.studies task-vectors --model {folder} --dtype bfloat16"
    assert (found.dtype, found.device) == ("bfloat16", "cpu")


def test_a_licence_is_shown_and_must_be_accepted(capsys):
    with pytest.raises(SystemExit):
        command.main(["task-vectors", "--model", "gemma3-270m"])
    out, err = capsys.readouterr()
    assert "Gemma Terms of Use found at https://ai.google.dev/gemma/terms" in out
    assert "--accept-licence" in err


@pytest.mark.parametrize(
    ("words", "message"), [(["tea-leaves"], "invalid choice: 'tea-leaves'"), ([], "required: name")]
)
def test_unknown_words_are_told(capsys, words, message):
    with pytest.raises(SystemExit):
        command.main(words)
    assert message in capsys.readouterr().err


def test_another_dtype_is_told():
    with pytest.raises(ValueError, match="dtype='float33'"):
        command.main(["task-vectors", "--dtype", "float33"])
