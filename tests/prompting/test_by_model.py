"""Demonstrations that a language model chooses or writes itself."""

import pytest
import torch

from course_lib import lm
from course_lib.fewshot import Case, Format, label_log_probs, score, short_texts
from course_lib.fewshot.classification import FORMATS
from course_lib.prompting import by_model

FORMAT = Format("Q: {x}\nA: {y}", "\n\n")
POOL = [("ab", "no"), ("cde", "yes"), ("f", "no")]
PROBES = [("gh", "yes"), ("ij", "no")]


def test_gain_is_the_mean_difference_of_two_log_probabilities(llama):
    found = by_model.mean_gains(llama, FORMAT, ["no", "yes"], POOL, PROBES)

    def log_p(demonstrations, x, y):
        each = [FORMAT.tokens(llama, demonstrations, x, label) for label in ("no", "yes")]
        among = score(llama, [each[0][0]], [[answer for _, answer in each]]).log_p[0].log_softmax(-1)
        return among[("no", "yes").index(y)].item()

    wanted = [sum(log_p([pair], x, y) - log_p([], x, y) for x, y in PROBES) / 2 for pair in POOL]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    assert found.std() > 1e-3


def test_believed_keeps_the_clearest_of_each_label(llama):
    written = {"no": ["a b", "cc d", "e ff g"], "yes": ["h i", "jj k l", "m"], "maybe": ["n o", "p q", "rr"]}
    pairs = [(x, y) for y, texts in written.items() for x in texts]
    log_p = torch.stack([label_log_probs_of(llama, x, list(written)) for x, _ in pairs])
    among = log_p - log_p.mean(0)
    everything = by_model.believed(llama, FORMAT, written, 3)
    wanted = [pairs[i] for i in range(9) if among[i].argmax() == i // 3]
    assert sorted(everything) == sorted(wanted)
    assert 0 < len(wanted) < 9
    first = by_model.believed(llama, FORMAT, written, 1)
    for x, y in first:
        own = [pair for pair in everything if pair[1] == y]
        margins = [(top := among[pairs.index(pair)].sort(descending=True).values)[0] - top[1] for pair in own]
        assert (x, y) == own[0]
        assert margins == sorted(margins, reverse=True)
    assert {y for _, y in first} == {y for _, y in wanted}


def label_log_probs_of(model, x, labels):
    return label_log_probs(model, FORMAT, [Case([], [(x, labels[0])])], [0], labels)[0, 0, 0].log_softmax(-1)


@pytest.mark.slow
def test_the_model_writes_reviews_that_it_believes(real):
    opening = by_model.OPENINGS["sentiment"]
    written = {y: lm.sample_texts(real, opening.format(y=y), 8) for y in ("negative", "positive")}
    assert all(len(texts) >= 3 for texts in written.values())
    assert all(8 <= len(text.split()) <= 20 for texts in written.values() for text in texts)
    kept = by_model.believed(real, FORMATS["sentiment"], written, 2)
    assert 1 <= len(kept) <= 4
    assert all(x in written[y] for x, y in kept)


@pytest.mark.parametrize("task", FORMATS)
def test_openings_name_the_label(task):
    assert by_model.OPENINGS[task].format(y="LABEL").count("LABEL") == 1


@pytest.mark.parametrize("name", FORMATS)
def test_probes_are_balanced_and_not_tried(name):
    task = short_texts(name, 200).sampled(5)
    found = by_model.probes(task, 128)
    assert len(set(found)) == 20
    assert set(found) <= set(task.pool)
    assert not set(found) & {*task.pool[:128], *task.queries}
    assert {sum(y == label for _, y in found) for label in task.labels} == {20 // len(task.labels)}
