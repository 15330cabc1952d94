"""The table for any model: what the command writes, and a sample of the stored table measured again."""

import families
import pytest
from torch.testing import assert_close

from course_lib import lm
from course_lib.data import tasks
from course_lib.fewshot import demonstrations as icl
from course_lib.mechanisms import task_vectors as tv
from course_lib.studies import results
from course_lib.studies import task_vectors as reproduce

SMALL = {"shots": 2, "n_trials": 2, "n_queries": 2, "seed": 0}


def test_the_command_writes_a_results_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "SETTINGS", SMALL)
    folder = families.make("llama", tmp_path / "tiny")
    reproduce.main([str(folder), "--out", str(tmp_path / "out"), "--tasks", "to_upper", "antonyms"])
    found = results.load(str(tmp_path / "out" / "task_vectors-tiny.json"))
    assert found.model == str(folder)
    assert found.command == f"python -m course_lib.studies.task_vectors {folder}"
    assert found.settings == SMALL | {
        "format": "{x}→{y}",
        "dtype": "float32",
        "device": found.settings["device"],
    }
    assert [(row["scoring"], row["task"]) for row in found.rows] == [
        (scoring, name)
        for scoring in ("first", "full")
        for name in ("to_upper", "antonyms", "to_upper ←", "to_upper ↔")
    ]
    expected = tv.evaluate(lm.load(folder), tasks.load("antonyms"), scoring="full", **SMALL)
    row = found.rows[5]
    assert (row["layer"], row["majority"]) == (expected.layer, round(expected.majority, 4))
    for kind in reproduce.KINDS:
        assert_close(row[kind], list(icl.accuracy(expected.hits[kind])), atol=1e-4, rtol=0)
    assert_close(row["by_layer"], expected.by_layer.tolist(), atol=1e-4, rtol=0)
    assert "wrote" in capsys.readouterr().out


def test_a_licence_is_shown_and_must_be_accepted(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["gemma3-270m"])
    out, err = capsys.readouterr()
    assert "Gemma Terms of Use found at https://ai.google.dev/gemma/terms" in out
    assert "--accept-licence" in err


def test_a_stored_row_is_measured_again(real):
    stored = results.load("task_vectors-smollm2-135m")
    row = next(row for row in stored.rows if row["task"] == "next_letter" and row["scoring"] == "first")
    settings = {key: stored.settings[key] for key in reproduce.SETTINGS}
    assert settings == reproduce.SETTINGS
    again = reproduce.row(real, tasks.load("next_letter"), "first", **settings)
    assert abs(again["layer"] - row["layer"]) <= 1  # another processor may break a tie otherwise
    assert_close(again["by_layer"], row["by_layer"], atol=0.041, rtol=0)
    for kind in reproduce.KINDS:
        assert_close(again[kind], row[kind], atol=0.05, rtol=0)
