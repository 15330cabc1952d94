"""Stored results: written whole, with where they come from, and read again."""

import re

import pytest

from course_lib.studies import results

ROWS = [{"task": "größer", "value": 0.5, "by_layer": [0.0, 1.0]}, {"task": "b", "value": 1, "by_layer": []}]
ABOUT = {"model": "m", "command": "python -m x", "settings": {"seed": 0}}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "r.json"
    saved = results.save(path, ROWS, **ABOUT)
    assert results.load(str(path)) == saved
    assert saved.rows == ROWS
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", saved.date)
    assert saved.versions.keys() == {"python", *results.MEASURED_BY}
    assert [file.name for file in path.parent.iterdir()] == ["r.json"]
    lines = path.read_text().splitlines()
    assert sum(line.startswith('  {"task"') for line in lines) == len(ROWS)  # a row a line


def test_rows_are_selected_by_what_they_hold(tmp_path):
    saved = results.save(tmp_path / "r.json", ROWS, **ABOUT)
    assert saved.select(task="b") == [ROWS[1]]
    assert saved.select(task="b", value=0.5) == saved.select(other=1) == []
    assert saved.select(by_layer=[0.0, 1.0]) == [ROWS[0]]
    assert saved.select() == ROWS


def test_stored_results_say_where_they_come_from():
    for file in results.FOLDER.iterdir():
        found = results.load(file.name.removesuffix(".json"))
        assert found.rows
        assert found.model in found.command
        assert found.settings


def test_unknown_results_are_named_with_the_stored_ones():
    with pytest.raises(FileNotFoundError, match=r"name='other': no such results; stored are .*smollm2-135m"):
        results.load("other")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "m", "extra": 1}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a results file"):
        results.load(str(path))
