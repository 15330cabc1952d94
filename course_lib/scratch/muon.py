"""Muon as in torch.optim, its matrices made orthogonal in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024): steps of momentum, made orthogonal and scaled to the size of Adam's.

    torch's own computes in bfloat16, which on a CPU without bfloat16 arithmetic takes twelve times as long.
    State and all else are those of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`.

    Args:
        params: matrices.
        lr: the length of a step.
        weight_decay: the share of a matrix, times `lr`, that a step takes away.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves every matrix that has a gradient, which `closure`, if given, computes with the loss."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)
        return loss

    def _move(self, matrix: torch.Tensor, group: dict) -> None:
        state, momentum = self.state[matrix], group["momentum"]
        average = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
        average.lerp_(matrix.grad, 1 - momentum)
        ahead = matrix.grad.lerp(average, momentum)  # Nesterov's
        size = 0.2 * max(matrix.shape) ** 0.5
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.sub_(orthogonal(ahead, group["ns_coefficients"], group["ns_steps"]) * group["lr"] * size)


def orthogonal(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int) -> torch.Tensor:
    """About UVᵀ of a matrix USVᵀ, by Newton–Schulz steps in float32.

    Args:
        matrix: (m, n).
        coefficients: a, b, c of the step x → (a + b·xxᵀ + c·(xxᵀ)²)x.
        steps: how many.

    Returns:
        (m, n), its singular values near one.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
