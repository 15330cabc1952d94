"""What a model can do without some of its heads: prompts, groups of heads, measurements, the stored table."""

import json

import pytest

from course_lib import lm
from course_lib.mechanisms import induction
from course_lib.studies import ablation, results


def shown(model, prompt):
    """The demonstrations and the query of a prompt."""
    *lines, query = model.decode(prompt[len(model.document_start) :]).split("\n")
    return [tuple(line.split("→")) for line in lines], query.removesuffix("→")


def test_probes_ask_what_they_say(real):
    probes = {probe.name: probe for probe in ablation.probes(real, n=20, shots=5)}
    assert next(iter(probes)) == "lookup"
    for name, probe in probes.items():
        assert len(probe.prompts) == len(probe.answers) == 20
        for prompt, answer in zip(probe.prompts, probe.answers, strict=True):
            demonstrations, query = shown(real, prompt)
            known = dict(demonstrations)
            assert len(known) == 5
            if name == "lookup":
                assert real.encode(known[query])[0] == answer
                continue
            assert query not in known
            task = dict(ablation.pairs(name.partition(",")[0]))
            assert real.encode(task[query])[0] == answer
            if name.endswith("shown"):
                assert list(known.values()).count(task[query]) == (0 if "not shown" in name else 1)


def test_shown_and_not_shown_ask_the_same_queries(real):
    probes = {probe.name: probe for probe in ablation.probes(real, n=20)}
    for task in ("location_continent", "person_language"):
        queries = [
            [shown(real, prompt)[1] for prompt in probes[f"{task}, {how}"].prompts]
            for how in ("shown", "not shown")
        ]
        assert queries[0] == queries[1]
        assert len(set(queries[0])) > 5


def test_articles_are_long_and_start_as_documents_do(real):
    articles = ablation.articles(real, n=3, length=100)
    assert [len(article) for article in articles] == [101] * 3
    assert all(article[:1] == real.document_start for article in articles)


def test_measure_gives_losses_and_answers(llama, monkeypatch):
    monkeypatch.setattr(ablation, "EARLY", slice(2, 4))
    monkeypatch.setattr(ablation, "LATE", slice(-3, None))
    twice = induction.repeated(llama, n=2, length=6)
    news = [llama.prompt("a text of some length"), llama.prompt("another text as long.")]
    wanted = lm.forward(llama, news, write=lm.ablation([(1, 1)])).logits.argmax(-1)
    asked = [ablation.Probe("ours", news, wanted), ablation.Probe("none", news, wanted + 1)]
    found = ablation.measure(llama, twice, news, asked, [(1, 1)])
    losses = lm.token_losses(llama, twice, write=lm.ablation([(1, 1)]))
    s = len(llama.document_start)
    assert found["first"] == pytest.approx(losses[:, s : s + 5].mean(1).tolist(), abs=1e-3)
    assert found["second"] == pytest.approx(losses[:, s + 6 : s + 11].mean(1).tolist(), abs=1e-3)
    along = lm.token_losses(llama, news, write=lm.ablation([(1, 1)]))
    assert found["early"] == pytest.approx(along[:, 2:4].mean(1).tolist(), abs=1e-3)
    assert found["late"] == pytest.approx(along[:, -3:].mean(1).tolist(), abs=1e-3)
    assert (found["ours"], found["none"]) == ([1, 1], [0, 0])
    assert ablation.measure(llama, twice, news, asked)["second"] != found["second"]


def test_the_command_writes_a_results_file(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lm, "load", lambda name: llama)
    monkeypatch.setattr(ablation, "articles", lambda model: [model.prompt("some text")])
    monkeypatch.setattr(ablation, "measure", lambda *args: {"second": [0.5], "heads seen": [len(args[4:])]})
    ablation.main(["--prompts", "2", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert path.name == "induction-smollm2-135m.json"
    stored = json.loads(path.read_text())
    assert stored["command"] == "python -m course_lib.studies.ablation --model smollm2-135m --prompts 2"
    assert len(stored["rows"]) == 1 + 3 * (2 + ablation.DRAWS) * 2
    assert {row["instead"] for row in stored["rows"][1:]} == {"zero", "mean"}
    assert all(len(row["which"]) == row["n"] == 1 for row in stored["rows"][1:])


def test_the_stored_table_is_measured_again(real):
    rows = results.load("induction-smollm2-135m").rows
    named = {(row["heads"], row["n"], row["instead"], row["draw"]): row for row in rows}
    row = named["induction", 5, "zero", 0]
    scores = induction.head_scores(real, induction.repeated(real))
    heads = lm.strongest_heads(scores.prefix, 5)
    assert sorted(map(tuple, row["which"])) == sorted(heads)
    assert [tuple(h) for h in named["random", 3, "mean", 2]["which"]] == lm.random_heads(
        real, 3, 2, without=lm.strongest_heads(scores.prefix, 3)
    )
    lookup = ablation.probes(real)[:1]
    again = ablation.measure(real, induction.repeated(real), ablation.articles(real)[:2], lookup, heads)
    assert again["second"] == pytest.approx(row["second"], abs=0.05)
    assert again["late"] == pytest.approx(row["late"][:2], abs=0.02)
    assert sum(a != b for a, b in zip(again["lookup"], row["lookup"], strict=True)) <= 2
