"""Attention to the labels of demonstrations, and what the value-output matrices make of them."""

import torch
from letters import CASES, laid_out

from course_lib import fewshot, lm


def test_labels_attention_and_what_is_written_of_them(tiny):
    given = laid_out(tiny, CASES[:1])
    seen = fewshot.label_attention(tiny, given)
    where, layer, head = given.layouts[1], 2, 1
    out = lm.forward(tiny, [where.tokens], lm.Read(attention=[layer], positions=[-1]))
    torch.testing.assert_close(seen.attention[1, layer, head], out.attention[0, 0, 0, head, where.labels])
    torch.testing.assert_close(seen.start[1, layer, head], out.attention[0, 0, 0, head, 0])
    q, k = lm.queries_and_keys(tiny, where.tokens, [layer])
    scores = q[0, head, -1] @ k[0, head].T / q.shape[-1] ** 0.5
    expected = (scores - scores[0])[where.labels]
    if "gemma" not in tiny.name:  # which has no document start at 0 in the window of some layers
        torch.testing.assert_close(seen.scores[1, layer, head], expected, atol=1e-4, rtol=1e-4)

    # a head that attends to a label alone returns its value
    def only(queries, keys, values, mask):
        out = torch.zeros(*queries.shape[:-1], values.shape[-1]) + values[:, :, where.labels[2]][:, :, None]
        return out, None

    alone = lm.forward(tiny, [where.tokens], lm.Read(heads=[layer]), attend=lm.Attend(layer, only))
    towards = lm.unembedding(tiny)[given.labels]
    written = (towards - towards.mean(0)) @ (
        alone.heads[0, 0, 0, head] @ lm.output_projections(tiny)[layer, head]
    )
    torch.testing.assert_close(seen.written[1, layer, head, 2], written, atol=1e-5, rtol=1e-4)


def test_labels_add_up_attention_by_label():
    attention = torch.tensor([[[0.1, 0.2, 0.3]], [[0.3, 0.0, 0.1]]])  # (prompts, heads, k)
    shown = torch.tensor([[0, 1, 0], [2, 2, 1]])
    found = fewshot.attention_by_label(attention, shown, 3)
    torch.testing.assert_close(found, torch.tensor([[[0.4, 0.2, 0.0]], [[0.0, 0.1, 0.3]]]))
