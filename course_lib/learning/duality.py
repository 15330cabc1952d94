"""The dual form: attention over examples as a step of gradient descent, and where the likeness ends.

Without softmax, attention over examples adds to a linear map what one step of gradient descent would add
(Irie et al. 2022; Dai et al. 2023). With weights that can be written down, one layer does one step of least
squares (von Oswald et al. 2023), preconditioned if inputs are not round (Ahn et al. 2023).
"""

from __future__ import annotations

import torch
from torch import nn

# The dual form


def linear_attention(values: torch.Tensor, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Attention without softmax, Σᵢ vᵢ (kᵢ·q).

    Args:
        values: (..., n, d_v).
        keys: (..., n, d).
        queries: (..., m, d).

    Returns:
        (..., m, d_v).
    """
    return (queries @ keys.mT) @ values


def as_update(values: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The matrix ΔW = Σᵢ vᵢ kᵢᵀ (..., d_v, d): attention without softmax over these is ΔW q.

    For a linear layer, the step of gradient descent on n examples is this with the inputs as keys and
    −η times the gradients of the loss by the outputs as values (Irie et al. 2022).
    """
    return values.mT @ keys


# One layer is one step


class LinearSelfAttention(nn.Module):
    """Layers of self-attention without softmax, which read examples (x, y) and a question (x, 0).

    Each layer adds V Σᵢ zᵢ (zᵢᵀ K z) / n to every position z, with the sum over the n examples. What is
    written in the question's last coordinate, with the other sign, is the answer.

    Args:
        d: coordinates of x.
        layers: how many, each with matrices of its own.
        init: standard deviation of the first weights.
    """

    def __init__(self, d: int, layers: int = 1, init: float = 0.2) -> None:
        super().__init__()
        self.value = nn.Parameter(
            init * torch.randn(layers, d + 1, d + 1)
        )  # V: the output projection times W_V
        self.key_query = nn.Parameter(init * torch.randn(layers, d + 1, d + 1))  # K: W_Kᵀ W_Q

    def forward(self, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Answers (B, m) to questions (B, m, d) after examples x (B, n, d) with values y (B, n)."""
        return attend_in_layers(self.value, self.key_query, x, y, query)[-1]


def attend_in_layers(
    value: torch.Tensor, key_query: torch.Tensor, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor
) -> torch.Tensor:
    """The answers after each layer of `LinearSelfAttention` with these matrices.

    Args:
        value: (layers, d + 1, d + 1).
        key_query: (layers, d + 1, d + 1).
        x: (B, n, d) inputs of the examples.
        y: (B, n) their values.
        query: (B, m, d) inputs that are asked about.

    Returns:
        (layers, B, m).
    """
    n = x.shape[1]
    z = torch.cat(
        [torch.cat([x, y[..., None]], -1), nn.functional.pad(query, (0, 1))], 1
    )  # (B, n + m, d + 1)
    answers = []
    for V, K in zip(value, key_query, strict=True):
        examples = z[:, :n]
        z = z + linear_attention(examples @ V.mT, examples @ K, z) / n
        answers.append(-z[:, n:, -1])
    return torch.stack(answers)


def construct(
    steps: torch.Tensor,
    d: int,
    preconditioner: torch.Tensor | None = None,
    shrink: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices with which each layer does one step of gradient descent on ‖Xw − y‖²/2n, from w = 0.

    A position's last coordinate is y − w·x: what is left of an example, and minus the answer of a question.

    Args:
        steps: (layers,) the size of each step.
        d: coordinates of x.
        preconditioner: (d, d) symmetric, multiplies the gradient; by default the identity.
        shrink: (layers,) what each layer also does to inputs: x − shrink · XᵀX x / n (GD++).

    Returns:
        Values and key-queries (layers, d + 1, d + 1) for `attend_in_layers`.
    """
    P = torch.eye(d).to(steps) if preconditioner is None else preconditioner
    key_query = nn.functional.pad(P, (0, 1, 0, 1)).expand(len(steps), -1, -1)
    of_x = torch.zeros_like(steps) if shrink is None else shrink
    return torch.diag_embed(-torch.cat([of_x[:, None].expand(-1, d), steps[:, None]], 1)), key_query


def descend(
    x: torch.Tensor,
    y: torch.Tensor,
    steps: torch.Tensor,
    preconditioner: torch.Tensor | None = None,
) -> torch.Tensor:
    """The w after 0, 1, … steps of gradient descent on ‖Xw − y‖²/2n from zero.

    Args:
        x: (B, n, d).
        y: (B, n).
        steps: (K,) the size of each step.
        preconditioner: (d, d), multiplies the gradient.

    Returns:
        (K + 1, B, d).
    """
    w = [x.new_zeros(x.shape[0], x.shape[2])]
    for size in steps:
        residual = y - (x @ w[-1][..., None])[..., 0]
        step = (x.mT @ residual[..., None])[..., 0] / x.shape[1]
        w.append(w[-1] + size * (step if preconditioner is None else step @ preconditioner.mT))
    return torch.stack(w)


def best_step(d: int, n: int, variance: float, fourth: float) -> tuple[float, float]:
    """The best size of a single step, and the loss ½E(answer − w·x)² after it, in closed form.

    Args:
        d: coordinates of x, independent of each other and of mean zero; w ~ N(0, I).
        n: examples.
        variance: E xᵢ².
        fourth: E xᵢ⁴.
    """
    curvature = (fourth + (d - 1) * variance**2 + (n - 1) * variance**2) / n
    size = variance / curvature
    return size, d * variance * (1 - size * variance) / 2


def best_preconditioner(covariance: torch.Tensor, n: int) -> torch.Tensor:
    """The best preconditioner (d, d) of a single step of size one for x ~ N(0, Σ), w ~ N(0, I).

    (Σ (n + 1)/n + tr(Σ)/n · I)⁻¹, which is the optimum of Ahn et al. (2023, theorem 1) in any basis.
    """
    eye = torch.eye(len(covariance)).to(covariance)
    return torch.linalg.inv(covariance * (n + 1) / n + covariance.trace() / n * eye)


def expected_loss(preconditioner: torch.Tensor, covariance: torch.Tensor, n: int) -> float:
    """½E(answer − w·x)² after one step from zero, for x ~ N(0, Σ) and w ~ N(0, I), in closed form.

    With M = XᵀX/n and B = PΣP, E M B M = (n + 1)/n · ΣBΣ + tr(BΣ)/n · Σ.
    """
    P, S = preconditioner, covariance
    B = P.mT @ S @ P
    second = (n + 1) / n * S @ B @ S + (B @ S).trace() / n * S
    return ((S.trace() - 2 * (S @ P @ S).trace() + second.trace()) / 2).item()


def function_of(value: torch.Tensor, key_query: torch.Tensor) -> torch.Tensor:
    """What the answer of one layer depends on: (d + 1, d + 1, d), the same for equal functions.

    The answer is −Σ T[a, b, c] G[a, b] x[c] with G = Σᵢ zᵢzᵢᵀ / n, which is symmetric, and so is T made.
    """
    T = value[-1][:, None, None] * key_query[None, :, :-1]
    return (T + T.transpose(0, 1)) / 2
