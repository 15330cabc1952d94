"""The stored table of ordering demonstrations: its rows and its command."""

import json

import pytest
import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import FORMATS, Case, centred, orders, truth
from course_lib.prompting import ordering, selection
from course_lib.studies import ordering as table
from course_lib.studies import results
from course_lib.studies.selection import task

FORMAT = FORMATS["sentiment"]
LABELS = ["negative", "positive"]
CASE = Case(
    [("dull and long .", "negative"), ("a bore .", "negative"), ("a warm film .", "positive")],
    [("very funny .", "positive"), ("not funny .", "negative"), ("a mess .", "negative")],
)
DEV = [("a joy .", "positive"), ("a chore .", "negative")]


@pytest.mark.parametrize("name", table.PLANS)
def test_sets_are_balanced_and_apart(name):
    plan = table.PLANS[name]._replace(sets=3, queries=6)
    drawn = table.sets(plan, 10)
    asked = [pair for case, _ in drawn for pair in case.queries]
    assert len(set(asked)) == 18
    assert {y for _, y in asked} <= set(plan.labels)
    for case, dev in drawn:
        shown = [y for _, y in case.demonstrations]
        assert len(set(case.demonstrations)) == len(shown)
        assert shown == [y for y in plan.labels for _ in range(plan.shots)]
        assert len(set(dev)) == 10
        assert [y for _, y in dev] == [y for y in plan.labels for _ in range(10 // len(plan.labels))]
        assert not set(dev) & {*case.demonstrations, *asked}
    assert drawn[0][0].demonstrations != drawn[1][0].demonstrations


def test_a_row_for_every_order(roomy, monkeypatch):
    monkeypatch.setattr(ordering, "written_probes", lambda model, format, cases, seed: ["a b", "c d", "e f"])
    rows = list(table.order_rows(roomy, table.PLANS["sentiment"], CASE, DEV, 0))
    every = orders(CASE)
    assert [row["shown"] for row in rows] == [
        [LABELS.index(y) for _, y in case.demonstrations] for case in every
    ]

    def of(texts):
        pairs = [(x, "negative") for x in texts]
        return ordering.ask(roomy, FORMAT, [Case(c.demonstrations, pairs) for c in every], LABELS)

    asked = ordering.ask(roomy, FORMAT, every, LABELS)
    tried, free, probed = of([x for x, _ in DEV]), of(ordering.CONTENT_FREE), of(["a b", "c d", "e f"])
    assert [row["free"] for row in rows] == [pytest.approx(own, abs=1e-3) for own in free.mean(1).tolist()]
    for name, chosen in (
        ("answers", asked),
        ("by nothing", ordering.calibrate(asked, free)),
        ("by written", ordering.calibrate(asked, probed)),
        ("by dev", ordering.calibrate(asked, tried)),
        ("centred", centred(asked)),
        ("dev answers", tried),
    ):
        assert [row[name] for row in rows] == ["".join(map(str, own)) for own in chosen.argmax(-1).tolist()]
    for name, log_p, entropy in (
        ("local", probed, ordering.local_entropy),
        ("global", probed, ordering.global_entropy),
        ("global dev", tried, ordering.global_entropy),
        ("local dev", tried, ordering.local_entropy),
    ):
        assert [row[name] for row in rows] == pytest.approx(entropy(log_p).tolist(), abs=1e-4)
    assert {row["probes"] for row in rows} == {3}


def test_similarity_in_three_orders(roomy):
    given = task("sentiment", 30, 4)
    rows = {row["how"]: row for row in table.similarity_rows(roomy, given, 3)}
    assert list(rows) == ["last", "first", "random"]
    near = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    cases = [
        Case([given.pool[i] for i in own], [query])
        for own, query in zip(near.indices.tolist(), given.queries, strict=True)
    ]
    wanted = torch.stack([ordering.ask(roomy, FORMAT, [case], LABELS)[0, 0] for case in cases])
    right = torch.tensor([LABELS.index(y) for _, y in given.queries])
    assert rows["first"]["log p"] == pytest.approx(wanted[range(4), right].tolist(), abs=1e-3)
    assert rows["last"]["log p"] != rows["first"]["log p"]


def test_the_command_writes_a_results_file(roomy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lm, "load", lambda name: roomy)
    monkeypatch.setattr(table, "order_rows", lambda *given: [{"answers": "01"}, {"answers": "10"}])
    monkeypatch.setattr(table, "similarity_rows", lambda model, given: [{"how": "last"}])
    monkeypatch.setattr(table, "task", lambda name, n_queries: None)
    table.main(["--out", str(tmp_path)])
    written = json.loads((tmp_path / "ordering-smollm2-135m.json").read_text())
    assert written["command"] == "python -m course_lib.studies.ordering --model smollm2-135m"
    assert len(written["rows"]) == 2 * (8 + 8 + 3) + 2
    first = written["rows"][1]
    assert (first["task"], first["set"], first["order"], first["answers"]) == ("sentiment", 0, 1, "10")
    assert len(first["right"]) == 40
    assert set(first["right"]) == {"0", "1"}
    assert first["dev right"] == 10 * "0" + 10 * "1"
    assert capsys.readouterr().out.splitlines()[:2] == ["sentiment 0 0", "sentiment 0 1"]


# The stored table


@pytest.fixture(scope="module")
def stored():
    return results.load("ordering-smollm2-135m")


def test_the_stored_table_has_a_row_for_every_order(stored):
    for name, n in (("sentiment", 24), ("two topics", 24), ("five topics", 120)):
        plan = table.PLANS[name]
        for i, (case, dev) in enumerate(table.sets(plan)):
            rows = stored.select(table="order", task=name, set=i)
            shown = truth([Case([], c.demonstrations) for c in orders(case)], plan.labels)
            assert [row["order"] for row in rows] == list(range(n))
            assert [row["shown"] for row in rows] == shown.tolist()
            for key, pairs in (("right", case.queries), ("dev right", dev)):
                asked = truth([Case([], pairs)], plan.labels)[0]
                assert {row[key] for row in rows} == {"".join(map(str, asked.tolist()))}
    about = {"dev": table.DEV, "probes": table.PROBES, "asked": table.ASKED}
    assert stored.settings == about
    assert len(stored.rows) == (8 + 8) * 24 + 3 * 120 + 6


@pytest.mark.parametrize(
    ("name", "i", "at"), [("sentiment", 2, 5), ("two topics", 7, 23), ("five topics", 1, 77)]
)
def test_a_stored_order_is_measured_again(real, stored, name, i, at):
    plan = table.PLANS[name]
    case, dev = table.sets(plan)[i]
    (row,) = stored.select(table="order", task=name, set=i, order=at)
    format, shown = FORMATS[plan.task], orders(case)[at].demonstrations

    def again(pairs):
        return ordering.ask(real, format, [Case(shown, pairs)], plan.labels)

    asked, tried = again(case.queries), again(dev)
    free = again([(x, plan.labels[0]) for x in ordering.CONTENT_FREE])
    assert row["free"] == pytest.approx(free[0].mean(0).tolist(), abs=0.02)
    assert row["local dev"] == pytest.approx(ordering.local_entropy(tried).item(), abs=0.01)
    for key, log_p in (
        ("answers", asked),
        ("by nothing", ordering.calibrate(asked, free)),
        ("by dev", ordering.calibrate(asked, tried)),
        ("centred", centred(asked)),
        ("dev answers", tried),
    ):
        answers = "".join(map(str, log_p.argmax(-1)[0].tolist()))
        differ = sum(a != b for a, b in zip(row[key], answers, strict=True))
        assert differ <= 1, key  # labels that are as likely may change places


def test_stored_answers_to_similar_texts_are_measured_again(real, stored):
    given = task("topic", n_queries=table.ASKED)
    few = given._replace(queries=given.queries[:3], query_vectors=given.query_vectors[:3])
    for row in table.similarity_rows(real, few):
        (before,) = stored.select(table="similarity", task="topic", how=row["how"])
        if row["how"] != "random":  # drawn for all queries together
            assert row["log p"] == pytest.approx(before["log p"][:3], abs=0.02)
