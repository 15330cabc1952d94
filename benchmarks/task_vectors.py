"""The task-vector protocol against the published way of computing it, in one run on the same prompts.

    python benchmarks/task_vectors.py [--model smollm2-135m] [--cases 10] [--queries 5] [--tasks antonyms …]

The peer does what Hendel et al. (2023) describe with plain batches of transformers: one full prompt for each
query and each dummy query, padded on the left, and one forward with a hook for every layer of the sweep. As
in their code, forwards with a hook compute the logits of every token; with --last, of the last only, which
is faster. Prints seconds and their ratio, and how many answers differ: none should.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from course_lib import fewshot, lm
from course_lib.data import tasks
from course_lib.mechanisms import task_vectors as tv


def blocks(model: lm.LanguageModel) -> nn.ModuleList:
    lists = (m for m in model.model.base_model.modules() if isinstance(m, nn.ModuleList))
    return next(m for m in lists if len(m) == model.n_layers)


@contextmanager
def hooked(module: nn.Module, act: callable) -> Iterator[None]:
    def hook(_: nn.Module, __: tuple, output: object) -> None:
        act(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


@torch.no_grad()
def plain(model: lm.LanguageModel, prompts: list[list[int]], keep: int = 1) -> torch.Tensor:
    """The most likely next token of each prompt, in one batch padded on the left; keep=0: all logits."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    options = {"attention_mask": mask, "position_ids": positions, "use_cache": False, "logits_to_keep": keep}
    return model.model(input_ids=ids, **options).logits[:, -1].argmax(-1)


def read_everywhere(model: lm.LanguageModel, prompts: list[list[int]], keep: int) -> torch.Tensor:
    """(N, L, d): the last token behind each layer."""
    kept: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda m, a, out: kept.append((out[0] if isinstance(out, tuple) else out)[:, -1].clone())
        )
        for block in blocks(model)
    ]
    plain(model, prompts, keep)
    for handle in handles:
        handle.remove()
    return torch.stack(kept, 1)


def patched(
    model: lm.LanguageModel, prompts: list[list[int]], layer: int, theta: torch.Tensor, keep: int
) -> torch.Tensor:
    with hooked(blocks(model)[layer], lambda stream: stream[:, -1].copy_(theta)):
        return plain(model, prompts, keep)


def published_way(
    model: lm.LanguageModel, task: tasks.Task, n_cases: int, n_queries: int, keep: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Accuracy by layer, and the right answers of the three procedures, query by query."""
    halves = task.split()
    n_queries = min(n_queries, *(len(half.pairs) - 6 for half in halves))
    tried, cases = (
        tv.draw(half, 5, n, n_queries) for half, n in zip(halves, (n_cases // 2, n_cases), strict=True)
    )

    def asked(some: list[fewshot.Case], kind: str) -> list[list[int]]:
        each = [(case, x) for case in some for x, _ in case.queries]
        if kind == "dummy":
            return [tv.ARROW.tokens(model, t.demonstrations, t.dummy)[0] for t, _ in each]
        return [tv.ARROW.tokens(model, t.demonstrations if kind == "full" else [], x)[0] for t, x in each]

    def wanted(some: list[fewshot.Case]) -> torch.Tensor:
        answers = [tv.ARROW.tokens(model, [], x, y)[1][0] for case in some for x, y in case.queries]
        return torch.tensor(answers, device=model.device)

    theta, alone, target = (
        read_everywhere(model, asked(tried, "dummy"), keep),
        asked(tried, "alone"),
        wanted(tried),
    )
    by_layer = torch.stack(
        [
            (patched(model, alone, i, theta[:, i], keep) == target).float().mean()
            for i in range(model.n_layers)
        ]
    )
    layer = by_layer.tolist().index(by_layer.max())
    theta, alone, target = (
        read_everywhere(model, asked(cases, "dummy"), keep),
        asked(cases, "alone"),
        wanted(cases),
    )
    return by_layer.cpu(), {
        "regular": (plain(model, asked(cases, "full")) == target).float().cpu(),
        "hypothesis": (patched(model, alone, layer, theta[:, layer], keep) == target).float().cpu(),
        "baseline": (plain(model, alone) == target).float().cpu(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=tasks.names())
    parser.add_argument("--last", action="store_true", help="the peer computes the last token's logits only")
    given = parser.parse_args()
    keep = 1 if given.last else 0
    model = lm.load(given.model)
    task = tasks.load(given.tasks[0])
    tv.evaluate(model, task, n_cases=2, n_queries=1)  # warm up
    published_way(model, task, 2, 1, keep)
    print(f"{model.name}, {given.cases} cases × {given.queries} queries, {torch.get_num_threads()} threads")
    total = {"published way": 0.0, "engine": 0.0}
    different = 0.0
    for name in given.tasks:
        task, start = tasks.load(name), time.perf_counter()
        by_layer, hits = published_way(model, task, given.cases, given.queries, keep)
        middle = time.perf_counter()
        found = tv.evaluate(model, task, n_cases=given.cases, n_queries=given.queries)
        seconds = (middle - start, time.perf_counter() - middle)
        total["published way"] += seconds[0]
        total["engine"] += seconds[1]
        changed = sum((hits[kind] - found.hits[kind].flatten()).abs().sum().item() for kind in hits)
        changed += (by_layer - found.by_layer).abs().sum().item() * (given.cases // 2) * given.queries
        different += changed
        print(
            f"{name:20}{seconds[0]:7.1f} s{seconds[1]:7.1f} s{seconds[0] / seconds[1]:6.1f}×  {changed:.0f}"
        )
    ratio = total["published way"] / total["engine"]
    print(f"{'all':20}{total['published way']:7.1f} s{total['engine']:7.1f} s{ratio:6.1f}×  {different:.0f}")


if __name__ == "__main__":
    main()
