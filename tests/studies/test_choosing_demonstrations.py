"""The study of choosing demonstrations: its rows, its units, and a sample measured again."""

from dataclasses import replace

import pytest
import torch

from course_lib import lm
from course_lib.fewshot import Case, score, short_texts
from course_lib.fewshot.classification import FORMATS
from course_lib.prompting import by_model, selection
from course_lib.studies import choosing_demonstrations as study
from course_lib.studies import results

FORMAT = FORMATS["sentiment"]


@pytest.fixture(scope="module")
def given():
    return short_texts("sentiment", 40).sampled(5)


@pytest.fixture(scope="module")
def task():
    return study.chosen_task("sentiment")


@pytest.fixture(scope="module")
def stored():
    return results.load("choosing-demonstrations-smollm2-135m")


def test_a_row_holds_the_answers_of_the_model(roomy, given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    cases = selection.cases(chosen, given.pool, given.queries)
    found = study.answer_row(roomy, given, cases)
    log_p = []
    for case in cases:
        each = [
            FORMAT.tokens(roomy, case.demonstrations, case.queries[0][0], label) for label in given.labels
        ]
        log_p.append(score(roomy, [each[0][0]], [[answer for _, answer in each]]).log_p[0].log_softmax(-1))
    log_p = torch.stack(log_p)
    right = torch.tensor([given.labels.index(y) for _, y in given.queries])
    assert found["log p"] == pytest.approx(log_p[range(5), right].tolist(), abs=1e-3)
    assert found["right"] == (log_p.argmax(1) == right).int().tolist()
    assert found["calibrated"] == ((log_p - log_p.mean(0)).argmax(1) == right).int().tolist()
    prompts = [FORMAT.tokens(roomy, case.demonstrations, case.queries[0][0])[0] for case in cases]
    assert found["tokens"] == len({tuple(prompt[: i + 1]) for prompt in prompts for i in range(len(prompt))})


def test_a_choice_counts_labels_and_measures_coverage(given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    found = study.choice_row(given, chosen)
    labels = [[given.pool[i][1] for i in own] for own in chosen.indices.tolist()]
    right = [y for _, y in given.queries]
    assert found["own"] == [own.count(y) for own, y in zip(labels, right, strict=True)]
    assert found["vote"] == [int(own.count(y) >= 2) for own, y in zip(labels, right, strict=True)]
    assert found["relevance"] == pytest.approx(chosen.scores.mean(1).tolist(), abs=1e-4)
    assert "redundancy" not in study.choice_row(
        given, selection.nearest(given.query_vectors, given.pool_vectors, 1)
    )


def test_controls_keep_labels_or_texts(given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 4)
    cases = selection.cases(chosen, given.pool, given.queries)
    alike = study.like_neighbours(given, chosen)
    assert [[y for _, y in c.demonstrations] for c in alike] == [
        [y for _, y in c.demonstrations] for c in cases
    ]
    assert [c.demonstrations for c in alike] != [c.demonstrations for c in cases]
    assert all(pair in given.pool for c in alike for pair in c.demonstrations)
    assert [c.queries for c in alike] == [c.queries for c in cases]
    pairs = given.pool[:3]
    assert study.same(given, pairs)[1] == Case(list(pairs[::-1]), [given.queries[1]])


@pytest.mark.slow
def test_every_strategy_is_measured(roomy, given, monkeypatch):
    given = replace(given, pool=[(x[:8], y) for x, y in given.pool])  # the model reads letter by letter
    monkeypatch.setattr(study, "CANDIDATES", 9)
    monkeypatch.setattr(
        lm, "sample_texts", lambda model, opening, n, seed=0: [f"{opening} {i}" for i in range(12)]
    )
    monkeypatch.setattr(by_model, "believed", lambda model, format, written, n: list(given.pool[20:32]))
    units = list(study.task_units(roomy, given))
    rows = [row for unit in units for row in unit.rows()]
    named = {(row["strategy"], row["setting"], row["k"]) for row in rows}
    assert len(named) == len({unit.key for unit in units}) == len(rows)
    assert {("none", 0, 0), ("nearest", 0, 16), ("MMR", 0.5, 8), ("written, shared", 7, 8)} <= named
    assert all(len(row["right"]) == len(row["log p"]) == 5 for row in rows)
    (best,) = (row for row in rows if row["strategy"] == "highest gain")
    probes = by_model.probes(given, 9)
    gains = by_model.mean_gains(roomy, FORMAT, given.labels, given.pool[:9], probes)
    assert best["gains"] == pytest.approx(gains.tolist(), abs=1e-3)
    top = [given.pool[i] for i in gains.argsort(descending=True)[:8]]
    again = study.answer_row(roomy, given, study.same(given, top))
    assert best["log p"] == pytest.approx(again["log p"], abs=1e-3)
    shared = next(unit for unit in units if unit.key.startswith("sentiment, written, shared, 3"))
    assert [shared.rows()[0]["log p"]] == [r["log p"] for r in rows if r["strategy"] == "written, shared"][
        3:4
    ]


@pytest.mark.slow
def test_units_are_those_of_the_stored_table(real, task, stored):
    keys = [unit.key for unit in study.task_units(real, task)]
    rows = stored.select(task="sentiment")
    about = ("task", "strategy", "setting", "k")
    assert keys == [", ".join(str(row[name]) for name in about) for row in rows]
    assert stored.settings == study.SETTINGS


@pytest.mark.slow
def test_the_stored_table_is_measured_again(real, task, stored):
    assert stored.settings["queries"] == study.QUERIES == len(stored.rows[0]["right"])
    few = replace(task, queries=task.queries[:2])
    chosen = study.strategies(task)
    chosen["nearest of each label, nearest last", 0] = selection.ordered(
        chosen["nearest of each label", 0], "last"
    )
    for strategy, setting in (
        ("nearest of each label", 0),
        ("nearest of each label, nearest last", 0),
        ("MMR", 0.3),
        ("DPP", 1.0),
        ("BM25", 0),
        ("clusters", 0),
    ):
        (row,) = stored.select(task="sentiment", strategy=strategy, setting=setting)
        cases = selection.cases(chosen[strategy, setting], task.pool, task.queries)[:2]
        again = study.answer_row(real, few, cases)
        assert again["log p"] == pytest.approx(row["log p"][:2], abs=0.02)
        shown = study.choice_row(task, chosen[strategy, setting])
        assert shown["relevance"] == pytest.approx(row["relevance"], abs=1e-3)
        assert shown["vote"] == row["vote"]
