"""The stored table of locate and project: its rows, its command, and a sample measured again."""

import json

import pytest
import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import Case, Format, Setting, settings
from course_lib.mechanisms import label_bias
from course_lib.mechanisms import label_heads as heads
from course_lib.mechanisms import label_routes as locate
from course_lib.studies import locate as table
from course_lib.studies import results

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
CASES = [
    Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")]),
    Case([("kl", "yes"), ("m", "no"), ("no", "yes")], [("ij", "no"), ("pq", "yes")]),
]


@pytest.fixture(scope="module")
def asked(llama):
    return locate.prompts(llama, [Setting(FORMAT, ["no", "yes"], case) for case in CASES])


@pytest.fixture(scope="module")
def found(llama, asked):
    return locate.find(llama, asked)


def test_rows_of_cuts(llama, asked):
    none, *cut = table.cut_rows(llama, asked)
    assert (none["cut"], none["layers"]) == ("none", [0, 0])
    assert len(cut) == len(heads.CUTS) * len(locate.ranges(llama))
    row = next(r for r in cut if (r["cut"], r["layers"]) == ("frames to labels", [2, 4]))
    again = locate.without_links(llama, asked, "frames to labels", range(2, 4))
    assert {name: row[name] for name in again} == again


def test_rows_of_heads(found):
    rows = list(table.head_rows(found))
    assert len(rows) == found.gain.numel()
    row = next(r for r in rows if (r["layer"], r["head"]) == (2, 1))
    assert row["gain"] == pytest.approx(found.gain[2, 1].item(), abs=1e-4)
    assert row["raised"] == pytest.approx(found.raised[2, 1].item(), abs=1e-4)


def test_rows_of_towers():
    found = [locate.Preferences(*torch.randn(3, 2, 3)) for _ in range(4)]
    rows = list(table.tower_rows(found))
    assert [(row["layer"], row["head"]) for row in rows] == [(i, j) for i in range(2) for j in range(3)]
    assert rows[4]["alike"] == pytest.approx([each.alike[1, 1].item() for each in found], abs=1e-4)


def test_rows_of_ablation(llama, asked, found):
    prefix = torch.rand(found.gain.shape)
    rows = list(table.ablation_rows(llama, asked, found, prefix))
    assert len(rows) == len(table.SHARES) * (4 + table.DRAWS)
    named = {row["heads"]: row for row in rows if row["draw"] == 0}
    assert [tuple(h) for h in named["lowering"]["which"]] == [
        divmod(found.raised.argmin().item(), llama.n_heads)
    ]
    assert [tuple(h) for h in named["induction"]["which"]] == [divmod(prefix.argmax().item(), llama.n_heads)]
    for row in rows:
        answers = heads.ask(llama, asked.where, asked.labels, lm.ablation(row["which"]))
        assert locate.said(asked, answers)["log p"] == pytest.approx(row["log p"], abs=2e-4)
        if row["heads"] == "random":
            assert not {*row["which"]} & {
                h for name in ("in-context", "lowering") for h in named[name]["which"]
            }


def test_rows_of_bias(llama, asked):
    groups = {"raising": [(1, 2), (3, 0)], "lowering": [(2, 2)]}
    seen = heads.at_labels(llama, asked.where, asked.labels)
    usual = seen.attention.mean(0)
    none, *rows = table.bias_rows(llama, asked, groups, usual)
    plain = heads.ask(llama, asked.where, asked.labels)
    assert none["tilt"] == pytest.approx(label_bias.tilt(asked, plain).tolist(), abs=1e-4)
    assert none["share"] == pytest.approx(label_bias.share(asked, seen, groups["raising"]).tolist(), abs=1e-4)
    assert [(r["by"], r["weighed"], r["strength"]) for r in rows] == [
        (by, *way)
        for by in ("number", "place", "share")
        for way in (("raising", 0.5), ("raising", 1.0), ("lowering", 1.0))
    ]
    half = next(r for r in rows if (r["by"], r["strength"]) == ("place", 0.5))
    factors = label_bias.by_place(asked, usual).sqrt()
    weigh = label_bias.weighed(asked, groups["raising"], factors)
    answers = heads.ask(llama, asked.where, asked.labels, weigh=weigh)
    assert half["tilt"] == pytest.approx(label_bias.tilt(asked, answers).tolist(), abs=2e-4)


def test_the_command_writes_a_results_file(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lm, "load", lambda name: llama)
    monkeypatch.setattr(table, "measure", lambda model, task: iter([{"table": "cut", "task": task}]))
    table.main(["--model", "a/b", "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "locate-b.json").read_text())
    assert stored["command"] == "python -m course_lib.studies.locate --model a/b"
    assert [row["task"] for row in stored["rows"]] == ["sentiment", "topic"]
    assert stored["settings"]["cases"] == table.CASES


def test_the_stored_table_is_measured_again(real):
    """Of the first case: one cut, one ablation, one weighing."""
    rows = results.load("locate-smollm2-135m").rows
    here = locate.prompts(real, settings("topic", 1, table.QUERIES, seed=table.TESTED))

    def first(found, row):
        names = [name for name in ("tilt", "log p", "mass") if name in found]
        assert {name: found[name][0] for name in names} == pytest.approx(
            {name: row[name][0] for name in names}, abs=0.03
        )

    def stored(name, **keys):
        of = [row for row in rows if (row["table"], row["task"]) == (name, "topic")]
        (row,) = [row for row in of if all(row[key] == value for key, value in keys.items())]
        return row

    row = stored("cut", cut="frames to labels", layers=[10, 30])
    first(locate.without_links(real, here, "frames to labels", range(10, 30)), row)
    row = stored("ablation", heads="lowering", n=5)
    answers = heads.ask(real, here.where, here.labels, lm.ablation([tuple(h) for h in row["which"]]))
    first(locate.said(here, answers), row)
    unequal = label_bias.unequal("topic", "many first", 1, table.QUERIES, table.TESTED)
    here = locate.prompts(real, unequal)
    row = stored("bias", version="many first", weighed="raising", by="number", strength=1.0)
    chosen = stored("ablation", heads="raising", n=14)["which"]
    weigh = label_bias.weighed(here, [tuple(h) for h in chosen], label_bias.by_number(here))
    answers = heads.ask(real, here.where, here.labels, weigh=weigh)
    first({"tilt": locate.rounded(label_bias.tilt(here, answers))} | locate.said(here, answers), row)


def test_stored_groups_follow_from_the_stored_heads():
    rows = results.load("locate-smollm2-135m").rows
    for task in ("sentiment", "topic"):
        of = [row for row in rows if (row["table"], row["task"]) == ("head", task)]
        found = locate.Found(
            *(torch.tensor([row[name] for row in of]).view(30, 9) for name in locate.Found._fields)
        )
        for row in rows:
            if (row["table"], row["task"]) == ("ablation", task) and row["heads"] in ("raising", "lowering"):
                expected = table.groups(found, torch.zeros(30, 9), row["n"])[row["heads"]]
                assert [tuple(head) for head in row["which"]] == expected
