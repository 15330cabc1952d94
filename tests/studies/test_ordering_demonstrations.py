"""The study of orders: its rows, its units, and a sample measured again."""

import pytest
import torch

from course_lib.fewshot import Case, orders, right_labels, short_texts, without_tilt
from course_lib.fewshot.classification import FORMATS
from course_lib.prompting import ordering, selection
from course_lib.studies import ordering_demonstrations as study
from course_lib.studies import results

FORMAT = FORMATS["sentiment"]
LABELS = ["negative", "positive"]
CASE = Case(
    [("dull and long .", "negative"), ("a bore .", "negative"), ("a warm film .", "positive")],
    [("very funny .", "positive"), ("not funny .", "negative"), ("a mess .", "negative")],
)
DEV = [("a joy .", "positive"), ("a chore .", "negative")]


def test_a_row_for_every_order(roomy, monkeypatch):
    monkeypatch.setattr(ordering, "written_probes", lambda model, format, cases, seed: ["a b", "c d", "e f"])
    rows = list(study.order_rows(roomy, ordering.PLANS["sentiment"], CASE, DEV, 0))
    every = orders(CASE)
    assert [row["shown"] for row in rows] == [
        [LABELS.index(y) for _, y in case.demonstrations] for case in every
    ]

    def of(texts):
        pairs = [(x, "negative") for x in texts]
        return ordering.order_scores(roomy, FORMAT, [Case(c.demonstrations, pairs) for c in every], LABELS)

    asked = ordering.order_scores(roomy, FORMAT, every, LABELS)
    tried, free, probed = of([x for x, _ in DEV]), of(ordering.CONTENT_FREE), of(["a b", "c d", "e f"])
    assert [row["free"] for row in rows] == [pytest.approx(own, abs=1e-3) for own in free.mean(1).tolist()]
    for name, chosen in (
        ("answers", asked),
        ("by nothing", ordering.calibrate(asked, free)),
        ("by written", ordering.calibrate(asked, probed)),
        ("by dev", ordering.calibrate(asked, tried)),
        ("without tilt", without_tilt(asked)),
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


def test_similar_texts_in_three_orders(roomy):
    given = short_texts("sentiment", 30).sampled(4)
    rows = {how: study.similarity_row(roomy, given, how, 3) for how in ("last", "first", "random")}
    near = selection.nearest(given.query_vectors, given.pool_vectors, 3)
    cases = [
        Case([given.pool[i] for i in own], [query])
        for own, query in zip(near.indices.tolist(), given.queries, strict=True)
    ]
    wanted = torch.stack([ordering.order_scores(roomy, FORMAT, [case], LABELS)[0, 0] for case in cases])
    right = torch.tensor([LABELS.index(y) for _, y in given.queries])
    assert rows["first"]["log p"] == pytest.approx(wanted[range(4), right].tolist(), abs=1e-3)
    assert rows["last"]["log p"] != rows["first"]["log p"]


def test_units_for_sets_and_similarity(llama, monkeypatch):
    monkeypatch.setattr(study, "order_rows", lambda *given: [{"answers": "01"}, {"answers": "10"}])
    monkeypatch.setattr(study, "similarity_row", lambda model, task, how: {"task": task.name, "how": how})
    rows = [row for unit in study.units(llama) for row in unit.rows()]
    assert len(rows) == 2 * (8 + 8 + 3) + 6
    first = rows[1]
    assert (first["task"], first["set"], first["order"], first["answers"]) == ("sentiment", 0, 1, "10")
    assert len(first["right"]) == 40
    assert set(first["right"]) == {"0", "1"}
    assert first["dev right"] == 10 * "0" + 10 * "1"
    assert rows[-1] == {"task": "topic", "how": "random"}


# The stored table


@pytest.fixture(scope="module")
def stored():
    return results.load("ordering-demonstrations-smollm2-135m")


def test_the_stored_table_has_a_row_for_every_order(stored):
    for name, n in (("sentiment", 24), ("two topics", 24), ("five topics", 120)):
        plan = ordering.PLANS[name]
        for i, (case, dev) in enumerate(ordering.draw_sets(plan)):
            rows = stored.select(table="order", task=name, set=i)
            shown = right_labels([Case([], c.demonstrations) for c in orders(case)], plan.labels)
            assert [row["order"] for row in rows] == list(range(n))
            assert [row["shown"] for row in rows] == shown.tolist()
            for key, pairs in (("right", case.queries), ("dev right", dev)):
                asked = right_labels([Case([], pairs)], plan.labels)[0]
                assert {row[key] for row in rows} == {"".join(map(str, asked.tolist()))}
    assert stored.settings == study.STUDY.settings
    assert len(stored.rows) == (8 + 8) * 24 + 3 * 120 + 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "i", "at"), [("sentiment", 2, 5), ("two topics", 7, 23), ("five topics", 1, 77)]
)
def test_a_stored_order_is_measured_again(real, stored, name, i, at):
    plan = ordering.PLANS[name]
    case, dev = ordering.draw_sets(plan)[i]
    (row,) = stored.select(table="order", task=name, set=i, order=at)
    format, shown = FORMATS[plan.task], orders(case)[at].demonstrations

    def again(pairs):
        return ordering.order_scores(real, format, [Case(shown, pairs)], plan.labels)

    asked, tried = again(case.queries), again(dev)
    free = again([(x, plan.labels[0]) for x in ordering.CONTENT_FREE])
    assert row["free"] == pytest.approx(free[0].mean(0).tolist(), abs=0.02)
    assert row["local dev"] == pytest.approx(ordering.local_entropy(tried).item(), abs=0.01)
    for key, log_p in (
        ("answers", asked),
        ("by nothing", ordering.calibrate(asked, free)),
        ("by dev", ordering.calibrate(asked, tried)),
        ("without tilt", without_tilt(asked)),
        ("dev answers", tried),
    ):
        answers = "".join(map(str, log_p.argmax(-1)[0].tolist()))
        differ = sum(a != b for a, b in zip(row[key], answers, strict=True))
        assert differ <= 1, key  # labels that are as likely may change places


@pytest.mark.slow
def test_stored_answers_to_similar_texts_are_measured_again(real, stored):
    few = short_texts("topic", study.POOL).sampled(3)
    for how in ("last", "first"):  # random orders are drawn for all queries together
        row = study.similarity_row(real, few, how)
        (before,) = stored.select(table="similarity", task="topic", how=how)
        assert row["log p"] == pytest.approx(before["log p"][:3], abs=0.02)
