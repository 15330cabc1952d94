"""What a model can do without some of its heads: prompts, groups of heads, measurements, the stored table."""

import pytest

from course_lib import lm
from course_lib.studies import induction_heads as study
from course_lib.studies import results


def shown(model, prompt):
    """The demonstrations and the query of a prompt."""
    *lines, query = model.decode(prompt[len(model.document_start) :]).split("\n")
    return [tuple(line.split("→")) for line in lines], query.removesuffix("→")


def test_probes_ask_what_they_say(real):
    probes = {probe.name: probe for probe in study.probes(real, n=20, shots=5)}
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
            task = dict(study.pairs(name.partition(",")[0]))
            assert real.encode(task[query])[0] == answer
            if name.endswith("shown"):
                assert list(known.values()).count(task[query]) == (0 if "not shown" in name else 1)


def test_shown_and_not_shown_ask_the_same_queries(real):
    probes = {probe.name: probe for probe in study.probes(real, n=20)}
    for task in ("location_continent", "person_language"):
        queries = [
            [shown(real, prompt)[1] for prompt in probes[f"{task}, {how}"].prompts]
            for how in ("shown", "not shown")
        ]
        assert queries[0] == queries[1]
        assert len(set(queries[0])) > 5


def test_articles_are_long_and_start_as_documents_do(real):
    articles = study.articles(real, n=3, length=100)
    assert [len(article) for article in articles] == [101] * 3
    assert all(article[:1] == real.document_start for article in articles)


def test_measures_are_losses_and_answers(llama, monkeypatch):
    monkeypatch.setattr(study, "EARLY", slice(2, 4))
    monkeypatch.setattr(study, "LATE", slice(-3, None))
    twice = lm.repeated_tokens(llama, n=2, length=6)
    news = [llama.prompt("a text of some length"), llama.prompt("another text as long.")]
    wanted = lm.forward(llama, news, write=lm.ablation([(1, 1)])).logits.argmax(-1).tolist()
    asked = [study.Probe("ours", news, wanted), study.Probe("none", news, [token ^ 1 for token in wanted])]
    found = study.ablation_measures(llama, twice, news, asked, [(1, 1)])
    losses = lm.token_losses(llama, twice, write=lm.ablation([(1, 1)]))
    s = len(llama.document_start)
    assert found["first"] == pytest.approx(losses[:, s : s + 5].mean(1).tolist(), abs=1e-3)
    assert found["second"] == pytest.approx(losses[:, s + 6 : s + 11].mean(1).tolist(), abs=1e-3)
    along = lm.token_losses(llama, news, write=lm.ablation([(1, 1)]))
    assert found["early"] == pytest.approx(along[:, 2:4].mean(1).tolist(), abs=1e-3)
    assert found["late"] == pytest.approx(along[:, -3:].mean(1).tolist(), abs=1e-3)
    assert (found["ours"], found["none"]) == ([1, 1], [0, 0])
    assert study.ablation_measures(llama, twice, news, asked)["second"] != found["second"]


def test_units_for_shares_groups_draws_and_ways(llama, monkeypatch):
    monkeypatch.setattr(study, "articles", lambda model: [model.prompt("some text")])
    monkeypatch.setattr(study, "probes", lambda model: [])
    monkeypatch.setattr(
        study,
        "ablation_measures",
        lambda *given: {"mean": given[5] is not None},
    )
    rows = [row for unit in study.units(llama) for row in unit.rows()]
    assert len(rows) == 1 + 3 * (2 + study.DRAWS) * 2
    assert rows[0] == {"heads": "none", "n": 0, "instead": "", "draw": 0, "which": [], "mean": False}
    assert all(row["mean"] == (row["instead"] == "mean") for row in rows[1:])
    assert all(len(row["which"]) == row["n"] == 1 for row in rows[1:])


@pytest.mark.slow
def test_the_stored_table_is_measured_again(real):
    rows = results.load("induction-heads-smollm2-135m").rows
    named = {(row["heads"], row["n"], row["instead"], row["draw"]): row for row in rows}
    row = named["induction", 5, "zero", 0]
    scores = lm.head_scores(real, lm.repeated_tokens(real))
    heads = lm.strongest_heads(scores.prefix, 5)
    assert sorted(map(tuple, row["which"])) == sorted(heads)
    assert [tuple(h) for h in named["random", 3, "mean", 2]["which"]] == lm.random_heads(
        real, 3, 2, without=lm.strongest_heads(scores.prefix, 3)
    )
    lookup = study.probes(real)[:1]
    again = study.ablation_measures(real, lm.repeated_tokens(real), study.articles(real)[:2], lookup, heads)
    assert again["second"] == pytest.approx(row["second"], abs=0.05)
    assert again["late"] == pytest.approx(row["late"][:2], abs=0.02)
    assert sum(a != b for a, b in zip(again["lookup"], row["lookup"], strict=True)) <= 2
