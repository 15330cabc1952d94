"""The stored table of choosing demonstrations: its rows, its command, and a sample measured again."""

import json

import pytest
import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot.demonstrations import Case, score
from course_lib.prompting import by_model as lm_selection
from course_lib.prompting import selection
from course_lib.studies import results
from course_lib.studies import selection as table

FORMAT = table.FORMATS["sentiment"]


@pytest.fixture(scope="module")
def given():
    return table.task("sentiment", 40, 5)


@pytest.fixture(scope="module")
def stored():
    return results.load("selection-smollm2-135m")


def test_a_task_has_a_pool_and_queries_that_are_others(given):
    assert (len(given.pool), len(given.queries)) == (40, 5)
    assert given.pool_vectors.shape == (40, 384)
    assert given.query_vectors.shape == (5, 384)
    assert not set(given.pool) & set(given.queries)
    assert given.queries == table.task("sentiment", 40, 7).queries[:5]
    assert [given.labels[i] for i in given.pool_labels] == [y for _, y in given.pool]
    first = texts.load("sentiment").train[0].text.split()[:20]
    assert given.pool[0][0] == " ".join(first)


@pytest.mark.parametrize("name", table.FORMATS)
def test_probes_are_balanced_and_not_tried(name):
    given = table.task(name, 200, 5)
    found = table.probes(given)
    assert len(set(found)) == table.PROBES
    assert set(found) <= set(given.pool)
    assert not set(found) & {*given.pool[: table.CANDIDATES], *given.queries}
    assert {sum(y == label for _, y in found) for label in given.labels} == {
        table.PROBES // len(given.labels)
    }


def test_said_are_the_answers_of_the_model(roomy, given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    cases = selection.cases(chosen, given.pool, given.queries)
    found = table.said(roomy, given, cases)
    log_p = []
    for case in cases:
        each = [
            FORMAT.tokens(roomy, case.demonstrations, case.queries[0][0], label) for label in given.labels
        ]
        log_p.append(score(roomy, *map(list, zip(*each, strict=True)))[0].log_softmax(-1))
    log_p = torch.stack(log_p)
    right = torch.tensor([given.labels.index(y) for _, y in given.queries])
    assert found["log p"] == pytest.approx(log_p[range(5), right].tolist(), abs=1e-3)
    assert found["right"] == (log_p.argmax(1) == right).int().tolist()
    assert found["centred"] == ((log_p - log_p.mean(0)).argmax(1) == right).int().tolist()
    prompts = [FORMAT.tokens(roomy, case.demonstrations, case.queries[0][0])[0] for case in cases]
    assert found["tokens"] == len({tuple(prompt[: i + 1]) for prompt in prompts for i in range(len(prompt))})


def test_shown_counts_labels_and_measures_coverage(given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    found = table.shown(given, chosen)
    labels = [[given.pool[i][1] for i in own] for own in chosen.indices.tolist()]
    right = [y for _, y in given.queries]
    assert found["own"] == [own.count(y) for own, y in zip(labels, right, strict=True)]
    assert found["vote"] == [int(own.count(y) >= 2) for own, y in zip(labels, right, strict=True)]
    assert found["relevance"] == pytest.approx(chosen.scores.mean(1).tolist(), abs=1e-4)
    assert "redundancy" not in table.shown(
        given, selection.nearest(given.query_vectors, given.pool_vectors, 1)
    )


def test_controls_keep_labels_or_texts(given):
    chosen = selection.nearest(given.query_vectors, given.pool_vectors, 4)
    cases = selection.cases(chosen, given.pool, given.queries)
    alike = table.like_neighbours(given, chosen)
    assert [[y for _, y in c.demonstrations] for c in alike] == [
        [y for _, y in c.demonstrations] for c in cases
    ]
    assert [c.demonstrations for c in alike] != [c.demonstrations for c in cases]
    assert all(pair in given.pool for c in alike for pair in c.demonstrations)
    assert [c.queries for c in alike] == [c.queries for c in cases]
    pairs = given.pool[:3]
    assert table.same(given, pairs)[1] == Case(pairs[::-1], [given.queries[1]])


def test_every_strategy_is_measured(roomy, given, monkeypatch):
    monkeypatch.setattr(table, "CANDIDATES", 9)
    monkeypatch.setattr(
        lm_selection, "write", lambda model, opening, n, seed=0: [f"{opening} {i}" for i in range(12)]
    )
    monkeypatch.setattr(lm_selection, "believed", lambda model, format, written, n: list(given.pool[20:32]))
    rows = list(table.measure(roomy, given))
    named = {(row["strategy"], row["setting"], row["k"]) for row in rows}
    assert len(named) == len(rows)
    assert {("none", 0, 0), ("nearest", 0, 16), ("MMR", 0.5, 8), ("written, shared", 7, 8)} <= named
    assert all(len(row["right"]) == len(row["log p"]) == 5 for row in rows)
    (best,) = (row for row in rows if row["strategy"] == "highest gain")
    gains = lm_selection.gains(roomy, FORMAT, given.labels, given.pool[:9], table.probes(given))
    assert best["gains"] == pytest.approx(gains.tolist(), abs=1e-3)
    top = [given.pool[i] for i in gains.argsort(descending=True)[:8]]
    assert best["log p"] == pytest.approx(table.said(roomy, given, table.same(given, top))["log p"], abs=1e-3)


def test_the_command_writes_a_results_file(roomy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lm, "load", lambda name: roomy)
    monkeypatch.setattr(table, "task", lambda name: name)
    row = {"strategy": "nearest", "setting": 0, "k": 8, "right": [1, 0]}
    monkeypatch.setattr(table, "measure", lambda model, name: [{"task": name} | row])
    table.main(["--out", str(tmp_path)])
    written = json.loads((tmp_path / "selection-smollm2-135m.json").read_text())
    assert written["command"] == "python -m course_lib.studies.selection --model smollm2-135m"
    assert [r["task"] for r in written["rows"]] == ["sentiment", "topic"]
    assert "topic nearest 0 8 0.50" in capsys.readouterr().out


def test_the_stored_table_is_measured_again(real, stored):
    assert stored.settings["queries"] == table.QUERIES == len(stored.rows[0]["right"])
    given = table.task("sentiment")
    few = given._replace(queries=given.queries[:2])
    chosen = table.strategies(given)
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
        cases = selection.cases(chosen[strategy, setting], given.pool, given.queries)[:2]
        again = table.said(real, few, cases)
        assert again["log p"] == pytest.approx(row["log p"][:2], abs=0.02)
        shown = table.shown(given, chosen[strategy, setting])
        assert shown["relevance"] == pytest.approx(row["relevance"], abs=1e-3)
        assert shown["vote"] == row["vote"]
