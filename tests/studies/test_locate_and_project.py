"""The study of locate and project: its rows, its units, and a sample measured again."""

import itertools

import pytest
import torch
from letters import laid_out

from course_lib import fewshot, lm
from course_lib.mechanisms import label_bias
from course_lib.mechanisms import label_heads as heads
from course_lib.mechanisms import label_routes as routes
from course_lib.studies import locate_and_project as study
from course_lib.studies import results


@pytest.fixture(scope="module")
def given(llama):
    return laid_out(llama)


@pytest.fixture(scope="module")
def found(llama, given):
    return heads.head_measures(llama, given)


def scores(model, given, **actions):
    return fewshot.label_scores(model, given.prompts, given.labels, **actions)


def test_rows_of_cuts(llama, given):
    row = study.cut_row(llama, given, "frames to labels", range(2, 4))
    again = routes.case_measures(given, routes.cut_scores(llama, given, "frames to labels", range(2, 4)))
    assert (row["cut"], row["layers"]) == ("frames to labels", [2, 4])
    for name, values in again.items():
        assert row[name] == pytest.approx(values.tolist(), abs=1e-4)
    none = study.cut_row(llama, given, "none", range(0))
    assert none["layers"] == [0, 0]
    assert none["log p"] != row["log p"]


def test_rows_of_heads(found):
    rows = list(study.head_rows(found))
    assert len(rows) == found.gain.numel()
    row = next(r for r in rows if (r["layer"], r["head"]) == (2, 1))
    assert row["gain"] == pytest.approx(found.gain[2, 1].item(), abs=1e-4)
    assert row["raised"] == pytest.approx(found.raised[2, 1].item(), abs=1e-4)


def test_rows_of_towers():
    found = [heads.Preferences(*torch.randn(3, 2, 3)) for _ in range(4)]
    rows = list(study.tower_rows(found))
    assert [(row["layer"], row["head"]) for row in rows] == [(i, j) for i in range(2) for j in range(3)]
    assert rows[4]["alike"] == pytest.approx([each.alike[1, 1].item() for each in found], abs=1e-4)


def test_rows_of_ablation(llama, given, found):
    prefix = torch.rand(found.gain.shape)
    rows = list(study.ablation_rows(llama, given, found, prefix, 1))
    assert len(rows) == 4 + study.DRAWS
    named = {row["heads"]: row for row in rows if row["draw"] == 0}
    assert named["lowering"]["which"] == [divmod(found.raised.argmin().item(), llama.n_heads)]
    assert named["induction"]["which"] == [divmod(prefix.argmax().item(), llama.n_heads)]
    for row in rows:
        log_p = scores(llama, given, write=lm.ablation(row["which"]))
        assert row["log p"] == pytest.approx(routes.case_measures(given, log_p)["log p"].tolist(), abs=2e-4)
        if row["heads"] == "random":
            apart = {h for name in ("in-context", "lowering") for h in named[name]["which"]}
            assert not {*row["which"]} & apart


def test_rows_of_bias(llama, given):
    groups = {"raising": [(1, 2), (3, 0)], "lowering": [(2, 2)]}
    seen = fewshot.label_attention(llama, given)
    usual = seen.attention.mean(0)
    none, *rows = study.bias_rows(llama, given, groups, usual)
    tilt = label_bias.tilt_to_second(given, scores(llama, given))
    assert none["tilt"] == pytest.approx(tilt.tolist(), abs=1e-4)
    share = label_bias.share_of_second(given, seen, groups["raising"])
    assert none["share"] == pytest.approx(share.tolist(), abs=1e-4)
    ways = (("raising", 0.5), ("raising", 1.0), ("lowering", 1.0))
    assert [(r["by"], r["weighed"], r["strength"]) for r in rows] == [
        (by, *way) for by in ("number", "place", "share") for way in ways
    ]
    half = next(r for r in rows if (r["by"], r["strength"]) == ("place", 0.5))
    weigh = label_bias.weighed(given, groups["raising"], label_bias.by_place(given, usual).sqrt())
    tilt = label_bias.tilt_to_second(given, scores(llama, given, weigh=weigh))
    assert half["tilt"] == pytest.approx(tilt.tolist(), abs=2e-4)


def test_units_are_those_of_the_stored_table(real):
    keys = [unit.key for unit in study.units(real)]
    assert len(set(keys)) == len(keys) == 2 * (1 + 5 * 7 + 1 + 1 + 3 + 5)
    rows = results.load("locate-and-project-smollm2-135m").rows
    tables = [key.split(", ")[:2] for key in keys]
    assert [each for each, _ in itertools.groupby(tables)] == [
        each for each, _ in itertools.groupby([row["task"], row["table"]] for row in rows)
    ]


@pytest.mark.slow
def test_the_stored_table_is_measured_again(real):
    """Of the first case: one cut, one ablation, one weighing."""
    stored = results.load("locate-and-project-smollm2-135m")
    assert stored.settings == {**study.SETTINGS, "shares": list(study.SHARES)}
    task = fewshot.short_texts("topic")
    prompts = fewshot.lay_out(real, task, task.cases(1, study.QUERIES, seed=routes.TESTED))

    def first(found, row):
        names = [name for name in ("tilt", "log p", "mass") if name in found]
        assert {name: float(found[name][0]) for name in names} == pytest.approx(
            {name: row[name][0] for name in names}, abs=0.03
        )

    def stored_row(table, **keys):
        (row,) = stored.select(table=table, task="topic", **keys)
        return row

    row = stored_row("cut", cut="frames to labels", layers=[10, 30])
    first(study.cut_row(real, prompts, "frames to labels", range(10, 30)), row)
    row = stored_row("ablation", heads="lowering", n=5)
    log_p = scores(real, prompts, write=lm.ablation([tuple(h) for h in row["which"]]))
    first(study.measures(prompts, log_p), row)
    two = task.only(fewshot.TWO_LABELS["topic"])
    unequal = label_bias.unequal(two, "many first", 1, study.QUERIES, routes.TESTED)
    prompts = fewshot.lay_out(real, two, unequal)
    row = stored_row("bias", version="many first", weighed="raising", by="number", strength=1.0)
    chosen = stored_row("ablation", heads="raising", n=14)["which"]
    weigh = label_bias.weighed(prompts, [tuple(h) for h in chosen], label_bias.by_number(prompts))
    log_p = scores(real, prompts, weigh=weigh)
    first({"tilt": label_bias.tilt_to_second(prompts, log_p)} | study.measures(prompts, log_p), row)


def test_stored_groups_follow_from_the_stored_heads():
    stored = results.load("locate-and-project-smollm2-135m")
    for task in ("sentiment", "topic"):
        of = stored.select(table="head", task=task)
        fields = heads.HeadMeasures._fields
        found = heads.HeadMeasures(*(torch.tensor([row[n] for row in of]).view(30, 9) for n in fields))
        for name in ("raising", "lowering"):
            for row in stored.select(table="ablation", task=task, heads=name):
                expected = heads.head_groups(found, torch.zeros(30, 9), row["n"])[name]
                assert [tuple(head) for head in row["which"]] == expected
