"""The study of task vectors: its units, and a sample of the stored table measured again."""

from torch.testing import assert_close

from course_lib.data import tasks
from course_lib.mechanisms import task_vectors as tv
from course_lib.stats import share_interval
from course_lib.studies import results
from course_lib.studies import task_vectors as study

SMALL = {"shots": 2, "n_cases": 2, "n_queries": 2, "seed": 0}


def test_a_unit_for_each_task_and_scoring(llama, monkeypatch):
    monkeypatch.setattr(study, "SETTINGS", SMALL)
    units = list(study.units(llama))
    assert len({unit.key for unit in units}) == len(units) == 2 * (18 + 6)
    (row,) = next(unit for unit in units if unit.key == "antonyms, full").rows()
    expected = tv.evaluate(llama, tasks.load("antonyms"), scoring="full", **SMALL)
    assert (row["task"], row["scoring"], row["category"]) == ("antonyms", "full", "linguistic")
    assert (row["layer"], row["majority"]) == (expected.layer, round(expected.majority, 4))
    for kind in study.KINDS:
        assert_close(row[kind], list(share_interval(expected.hits[kind])), atol=1e-4, rtol=0)
    assert_close(row["by_layer"], expected.by_layer.tolist(), atol=1e-4, rtol=0)
    names = {unit.key for unit in units}
    assert {"to_upper ←, first", "to_upper ↔, full"} <= names


def test_a_stored_row_is_measured_again(real):
    stored = results.load("task-vectors-smollm2-135m")
    assert stored.settings == study.STUDY.settings
    row = next(row for row in stored.rows if row["task"] == "next_letter" and row["scoring"] == "first")
    again = study.row(real, tasks.load("next_letter"), "first")
    assert abs(again["layer"] - row["layer"]) <= 1  # another processor may break a tie otherwise
    assert_close(again["by_layer"], row["by_layer"], atol=0.041, rtol=0)
    for kind in study.KINDS:
        assert_close(again[kind], row[kind], atol=0.05, rtol=0)
