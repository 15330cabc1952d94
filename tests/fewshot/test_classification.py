"""Tasks of texts with labels: pools, queries, cases, embeddings."""

import pytest
import torch

from course_lib import fewshot
from course_lib.data import texts
from course_lib.fewshot.classification import FORMATS, TWO_LABELS


@pytest.mark.parametrize("name", FORMATS)
def test_cases_do_not_share_texts(name):
    task = fewshot.short_texts(name)
    cases = task.cases(2)
    shown = [{x for x, _ in case.demonstrations} for case in cases]
    asked = [{x for x, _ in case.queries} for case in cases]
    assert [len(t) for t in shown + asked] == [8, 8, 12, 12]
    assert not (shown[0] | shown[1]) & (asked[0] | asked[1])
    assert all(y in task.labels for _, y in cases[0].demonstrations)
    assert max(len(x.split()) for x in shown[0] | asked[0]) <= 20
    assert len(task.cases(1, shots=4)[0].demonstrations) == 4


def test_a_task_has_a_pool_and_queries_that_are_others():
    task = fewshot.short_texts("sentiment", 40).sampled(5)
    assert (len(task.pool), len(task.queries)) == (40, 5)
    assert not set(task.pool) & set(task.queries)
    assert task.queries == fewshot.short_texts("sentiment", 40).sampled(7).queries[:5]
    assert task.queries != fewshot.short_texts("sentiment", 40).sampled(5, seed=1).queries
    assert [task.labels[i] for i in task.pool_labels] == [y for _, y in task.pool]
    assert [task.labels[i] for i in task.query_labels] == [y for _, y in task.queries]
    first = texts.load("sentiment").train[0].text.split()[:20]
    assert task.pool[0][0] == " ".join(first)
    assert task.pool_vectors.shape == (40, 384)
    torch.testing.assert_close(task.query_vectors.norm(dim=1), torch.ones(5))


def test_some_labels_only():
    task = fewshot.short_texts("topic")
    two = task.only(TWO_LABELS["topic"])
    assert two.labels == ("business", "sports")
    assert {y for _, y in (*two.pool, *two.queries)} == {"business", "sports"}
    assert list(two.pool) == [pair for pair in task.pool if pair[1] in two.labels]
    with pytest.raises(ValueError, match=r"\['weather'\] are not among business"):
        task.only(["business", "weather"])


def test_another_name_is_told():
    with pytest.raises(ValueError, match="name='weather'"):
        fewshot.short_texts("weather")
