"""The study of demonstrations beside fine-tuning: its units, and a sample measured again."""

import pytest

from course_lib import lm
from course_lib.fewshot import short_texts
from course_lib.learning import finetuning
from course_lib.studies import dual_of_fine_tuning as study
from course_lib.studies import results


@pytest.fixture(scope="module")
def stored():
    return results.load("dual-of-fine-tuning-smollm2-135m")


def test_a_unit_for_each_task_case_and_model(llama, stored, monkeypatch):
    seen = []

    def compare(model, lesson, other):
        seen.append((model, lesson, other))
        return [{"update": "a"}]

    monkeypatch.setattr(study, "compare_updates", compare)
    rows = [row for unit in study.units(llama) for row in unit.rows()]
    keys = ("task", "case", "model")
    assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in stored.rows[::6]]
    trained, untrained = seen[6][0], seen[7][0]
    assert trained is llama
    assert lm.fingerprint(untrained) != lm.fingerprint(llama)
    assert seen[9][0] is untrained
    (task, case), (other, _) = seen[6][1:]
    assert (task.name, other.name) == ("sentiment", "topic")
    assert case == task.cases(4)[3]
    assert seen[26][1][0].name == "topic"


@pytest.mark.slow
def test_the_stored_table_is_measured_again(real, stored):
    assert stored.settings == study.STUDY.settings
    lesson, other = ((task, task.cases(8)[7]) for task in map(short_texts, ("topic", "sentiment")))
    for row in finetuning.compare_updates(real, lesson, other, ["gradient descent", "the other task"]):
        (kept,) = stored.select(task="topic", case=7, model="trained", update=row["update"])
        assert row["direction"] == pytest.approx(kept["direction"], abs=0.03)
        assert row["attention before"] == pytest.approx(kept["attention before"], abs=0.01)
