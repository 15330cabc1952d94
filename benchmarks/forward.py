"""The forward engine against plain batched forwards of transformers, in one run on the same prompts.

    python benchmarks/forward.py [--repeat 3] [--model smollm2-135m]

Prints, for each workload, seconds (the best of the repeats, taken in turn), the ratio plain/engine, the
largest difference of the logits, the prompt tokens answered per second, and the share of the machine's
measured float32 matmul peak that the engine's own arithmetic reaches.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch

from course_lib import lm
from course_lib.lm.packing import pack


def random_tokens(n: int, generator: torch.Generator) -> list[int]:
    return torch.randint(1000, 40000, (n,), generator=generator).tolist()


def workloads(model: lm.LanguageModel) -> dict[str, list[list[int]]]:
    g = torch.Generator().manual_seed(0)
    start = model.document_start
    prefixes = [start + random_tokens(36 - len(start), g) for _ in range(6)]
    shots = [random_tokens(8, g) for _ in range(4)]
    queries = [random_tokens(4, g) for _ in range(20)]
    orders = [start + list(itertools.chain(*order)) for order in itertools.permutations(shots)]
    return {
        "a: 6 prefixes of 36 tokens × 50 queries of 4": [
            prefix + random_tokens(4, g) for prefix in prefixes for _ in range(50)
        ],
        "b: 64 prompts of 48 tokens that share nothing": [random_tokens(48, g) for _ in range(64)],
        "d: 24 orders of 4 demonstrations × 20 queries": [o + q for o in orders for q in queries],
    }


@torch.no_grad()
def plain(model: lm.LanguageModel, prompts: list[list[int]], batch: int = 50) -> torch.Tensor:
    """Logits after the last token, by batches of whole prompts (all of one length: no padding)."""
    chunks = [prompts[i : i + batch] for i in range(0, len(prompts), batch)]
    ids = (torch.tensor(chunk, device=model.device) for chunk in chunks)
    return torch.cat([model.model(input_ids=x, use_cache=False, logits_to_keep=1).logits[:, -1] for x in ids])


def plain_sweep(model: lm.LanguageModel, prompts: list[list[int]], vectors: torch.Tensor) -> torch.Tensor:
    """One full forward for each layer, with a hook that overwrites the last token."""
    results = []
    for layer, vector in zip(model.model.base_model.layers, vectors, strict=True):

        def overwrite(
            module: torch.nn.Module, args: tuple, hidden: torch.Tensor, vector: torch.Tensor = vector
        ) -> torch.Tensor:
            hidden = hidden.clone()
            hidden[:, -1] = vector
            return hidden

        hook = layer.register_forward_hook(overwrite)
        results.append(plain(model, prompts, len(prompts)))
        hook.remove()
    return torch.stack(results)


def residuals(model: lm.LanguageModel, prompts: list[list[int]]) -> torch.Tensor:
    """(L, N, d) vectors as a sweep writes them: the residual streams of the prompts, shuffled."""
    read = lm.forward(model, prompts[::-1], lm.Read(residual=range(model.n_layers))).residual
    return read[:, :, 0].transpose(0, 1).contiguous()


def best(repeat: int, *functions: Callable[[], torch.Tensor]) -> tuple[list[float], float]:
    """The best time of each function, taken in turn, and the largest difference of their results."""
    times = [float("inf")] * len(functions)
    results = [function() for function in functions]  # warm-up
    for _ in range(repeat):
        for i, function in enumerate(functions):
            before = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[i] = min(times[i], time.perf_counter() - before)
    return times, (results[0] - results[1]).abs().max().item()


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of a large float32 matrix product, the best of ten."""
    a = torch.randn(2048, 2048, device=device)

    def product() -> torch.Tensor:
        return a @ a

    return 2 * 2048**3 / best(10, product, product)[0][0]


def arithmetic(model: lm.LanguageModel, prompts: list[list[int]]) -> float:
    """FLOPs of the matrix products with weights that the engine does for these prompts."""
    weights = sum(p.numel() for name, p in model.model.base_model.named_parameters() if "embed" not in name)
    head = model.model.get_output_embeddings().weight.numel()
    return 2 * weights * len(pack(prompts).tokens) + 2 * head * len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    args = parser.parse_args()
    model = lm.load(args.model)
    peak = matmul_peak(model.device)
    print(
        f"{args.model} on {model.device}, {torch.get_num_threads()} threads, matmul {peak / 1e9:.0f} GFLOP/s"
    )
    columns = f"{'plain s':>8} {'engine s':>8} {'ratio':>6} {'max |Δ|':>8} {'tokens/s':>9} {'peak':>5}"
    print(f"{'workload':50} {columns}")
    prompts = workloads(model)
    for name, ps in prompts.items():
        times, difference = best(
            args.repeat, lambda ps=ps: plain(model, ps), lambda ps=ps: lm.forward(model, ps).logits
        )
        share = arithmetic(model, ps) / times[1] / peak
        report(name, times, difference, sum(map(len, ps)), f"{share:5.0%}")
    few = next(iter(prompts.values()))[::10]  # 6 prefixes × 5 queries
    zero_shot = [model.document_start + p[-4:] for p in few]
    for name, ps in {
        "c: layer sweep, prompts of a": few,
        "c: layer sweep, prompts of 5 tokens": zero_shot,
    }.items():
        vectors = residuals(model, ps)
        times, difference = best(
            args.repeat,
            lambda ps=ps, v=vectors: plain_sweep(model, ps, v),
            lambda ps=ps, v=vectors: lm.sweep_layers(model, ps, v),
        )
        report(f"{name} × {len(ps)}", times, difference, model.n_layers * sum(map(len, ps)), "")


def report(name: str, times: list[float], difference: float, tokens: int, share: str) -> None:
    plain_s, engine_s = times
    speed = f"{plain_s:8.2f} {engine_s:8.2f} {plain_s / engine_s:5.1f}× {difference:8.1e}"
    print(f"{name:50} {speed} {tokens / engine_s:9.0f} {share}")


if __name__ == "__main__":
    main()
