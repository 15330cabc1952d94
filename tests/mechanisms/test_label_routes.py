"""Answers per case, cuts in ranges of layers, and what is found of each head."""

import pytest
import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import Case, Format, Setting
from course_lib.mechanisms import label_heads as heads
from course_lib.mechanisms import label_routes as locate

FORMAT = Format("Q: {x}\nA:{y}", "\n\n")
CASES = [
    Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")]),
    Case([("kl", "yes"), ("m", "no"), ("no", "yes")], [("ij", "no"), ("pq", "yes")]),
]


def asked(model):
    return locate.prompts(model, [Setting(FORMAT, ["no", "yes"], case) for case in CASES])


def test_prompts_of_all_cases(llama):
    here = asked(llama)
    assert [p.tokens for p in here.where] == [
        FORMAT.tokens(llama, case.demonstrations, x)[0] for case in CASES for x, _ in case.queries
    ]
    assert here.right.tolist() == [1, 0, 0, 1]
    assert here.shown.tolist() == [[0, 1, 0]] * 2 + [[1, 0, 1]] * 2
    assert [llama.decode([t]) for t in here.labels] == ["n", "y"]
    torch.testing.assert_close(
        here.per_case(torch.tensor([1.0, 0.0, 1.0, 1.0])), torch.tensor([0.5, 1.0]), rtol=0, atol=0
    )


def test_what_is_said_of_answers(llama):
    logits = torch.tensor([[0.0, 1.0], [0.0, 0.5], [3.0, 0.0], [2.0, 0.0]])
    found = locate.said(asked(llama), heads.Answers(logits, logits.log_softmax(-1) - 1))
    assert found["plain"] == [0.5, 0.5]  # each case has one query answered by its favourite
    assert found["accuracy"] == [1.0, 1.0]  # less what a case favours, both are right
    log_p = logits.log_softmax(-1)[range(4), [1, 0, 0, 1]]
    assert found["log p"] == pytest.approx(log_p.view(2, 2).mean(1).tolist(), abs=1e-4)
    assert found["mass"] == pytest.approx([0.3679, 0.3679])  # e⁻¹


def test_ranges_are_all_layers_and_halves_that_complete_each_other(real):
    every, *halves = locate.ranges(real)
    assert every == range(30)
    assert halves == [range(10), range(15), range(20), range(10, 30), range(15, 30), range(20, 30)]


def test_cut_links_change_what_is_said(llama):
    here = asked(llama)
    whole = locate.said(here, heads.ask(llama, here.where, here.labels))
    layers = [0, 2]
    weigh = lm.Weigh(layers, [heads.links(where, "texts to labels") for where in here.where])
    expected = locate.said(here, heads.ask(llama, here.where, here.labels, weigh=weigh))
    found = locate.without_links(llama, here, "texts to labels", layers)
    assert found == expected != whole
    assert locate.without_links(llama, here, "texts to labels", []) == whole


def test_what_is_found_of_heads(llama):
    here = asked(llama)
    found = locate.find(llama, here)
    shape = llama.n_layers, llama.n_heads
    assert {name: x.shape for name, x in found._asdict().items()} == dict.fromkeys(found._fields, shape)
    layer, head = 2, 1
    whole = heads.ask(llama, here.where, here.labels)
    gone = heads.ask(llama, here.where, here.labels, [lm.Write(layer, 0.0, head=head)])
    lost = (whole.log_p - gone.log_p).gather(1, here.right[:, None]).mean()
    assert found.effect[layer, head].item() == pytest.approx(lost.item(), abs=1e-5)
    seen = heads.at_labels(llama, here.where, here.labels)
    own, raised = [], 0.0
    for i, shown in enumerate(here.shown.tolist()):
        for j, label in enumerate(shown):
            written = seen.written[i, layer, head, j]
            own.append(float(written.argmax() == label))
            raised += (seen.attention[i, layer, head, j] * written[label]).item()
    assert found.own[layer, head].item() == pytest.approx(sum(own) / len(own))
    assert found.raised[layer, head].item() == pytest.approx(raised / 4, abs=1e-6)
    assert found.attention[layer, head].item() == pytest.approx(
        seen.attention[:, layer, head].sum(-1).mean().item()
    )


def test_what_heads_carry_into_prompts_without_demonstrations(llama):
    here = asked(llama)
    read = lm.Read(heads=range(llama.n_layers))
    means = lm.forward(llama, [p.tokens for p in here.where], read).heads[:, :, 0].mean(0)
    bare = [FORMAT.tokens(llama, [], x)[0] for case in CASES for x, _ in case.queries]

    def mass(write):
        log_p = lm.forward(llama, bare, write=write).logits.log_softmax(-1)
        return log_p[:, here.labels].logsumexp(-1)

    gained = mass([lm.Write(1, means[1, 3], head=3)]) - mass([])
    assert locate.carry(llama, here)[1, 3].item() == pytest.approx(gained.mean().item(), abs=1e-5)


def test_preferences_are_agreements_with_scores(llama):
    drawn = Setting(FORMAT, ["no", "yes"], Case(CASES[0].demonstrations, [*CASES[0].queries, ("xyz", "yes")]))
    here = locate.prompts(llama, [drawn])
    own = heads.at_labels(llama, here.where, here.labels).scores
    found = locate.preferences(llama, drawn)
    apart = heads.agreement(own, heads.towers(llama, FORMAT, drawn.case))
    torch.testing.assert_close(found.apart, apart)
    right = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(found.right, heads.agreement(own, right[:, None, None]))
    assert found.alike.abs().max() <= 1
    assert not torch.allclose(found.alike, found.right)


def test_in_context_heads_stand_high_in_both_ways():
    gain = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.0, -1.0]])
    effect = torch.tensor([[0.0, 5.0, 4.0], [9.0, -1.0, -2.0]])
    found = locate.Found(gain, effect, gain, gain, gain, gain)
    # ranks by gain 0 1 2 / 3 4 5, by effect 3 1 2 / 0 4 5
    assert locate.in_context(found, 2) == [(0, 1), (0, 2)]
    assert set(locate.in_context(found, 4)) == {(0, 1), (0, 2), (0, 0), (1, 0)}
