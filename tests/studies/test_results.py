"""Stored results: written whole, with where they come from, and read again."""

import pytest

from course_lib.studies import results
from course_lib.studies.__main__ import STUDIES

ROWS = [{"task": "größer", "value": 0.5, "by_layer": [0.0, 1.0]}, {"task": "b", "value": 1, "by_layer": []}]
RESULTS = results.Results(
    model="m",
    revision=None,
    commit="abc",
    command="python -m x",
    date="2026-11-28",
    versions={"torch": "2"},
    device="cpu",
    dtype="float32",
    settings={"seed": 0},
    rows=ROWS,
)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "r.json"
    results.save(path, RESULTS)
    assert results.load(path) == results.load(str(path)) == RESULTS
    assert [file.name for file in path.parent.iterdir()] == ["r.json"]
    lines = path.read_text().splitlines()
    assert sum(line.startswith('  {"task"') for line in lines) == len(ROWS)  # a row a line


def test_rows_are_selected_by_what_they_hold():
    assert RESULTS.select(task="b") == [ROWS[1]]
    assert RESULTS.select(task="b", value=0.5) == RESULTS.select(other=1) == []
    assert RESULTS.select(by_layer=[0.0, 1.0]) == [ROWS[0]]
    assert RESULTS.select() == ROWS


def test_stored_results_say_where_they_come_from():
    for file in results.FOLDER.iterdir():
        found = results.load(file.name.removesuffix(".json"))
        (name,) = (name for name in STUDIES if file.name == f"{name}-{found.model}.json")
        assert found.rows
        assert found.command.startswith(f"python -m course_lib.studies {name} --model {found.model}")
        assert set(found.settings) == set(STUDIES[name].settings)


def test_unknown_results_are_named_with_the_stored_ones():
    with pytest.raises(FileNotFoundError, match=r"name='other': no such results; stored are .*smollm2-135m"):
        results.load("other")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "m", "extra": 1}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a results file"):
        results.load(str(path))
