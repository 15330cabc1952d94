"""Functions in context: which learning algorithms fit into a forward pass (Garg et al. 2022)?

A function is drawn from a family, and a prompt shows its values at some inputs. A transformer that was
trained on such prompts says the value at one more input, and is held against algorithms given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import torch
from sklearn.base import RegressorMixin
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn import functional

from course_lib import readouts
from course_lib.scratch.recipe import Recipe
from course_lib.scratch.training import Plan
from course_lib.scratch.transformer import Block, Config
from course_lib.synthetic.regression import FAMILIES, Family, Prompts, draw

# Algorithms: each takes x (B, n, d), y (B, n) and questions (B, m, d), and answers (B, m)


def zero(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Answers zero, the mean over functions, whatever the examples say."""
    return query.new_zeros(query.shape[:2])


def least_squares(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The w of least ‖Xw − y‖; of several the shortest."""
    return (query @ (torch.linalg.pinv(x) @ y[..., None]))[..., 0]


def ridge(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, noise: float) -> torch.Tensor:
    """(XᵀX + σ²I)⁻¹Xᵀy: the mean of w given the examples, if w ~ N(0, I) and the noise has deviation σ."""
    gram = x.mT @ x + noise**2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (query @ torch.linalg.solve(gram, x.mT @ y[..., None]))[..., 0]


def sparse_bayes(
    x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, noise: float, nonzero: int
) -> torch.Tensor:
    """The mean of w given the examples, if w ~ N(0, I) has `nonzero` coordinates at random places."""
    if not y.shape[1]:
        return zero(x, y, query)
    log_evidence, answers = [], []
    for places in combinations(range(x.shape[-1]), nonzero):
        part = x[..., places]
        answers.append(ridge(part, y, query[..., places], noise=noise))
        covariance = part @ part.mT + noise**2 * torch.eye(y.shape[1]).to(x)
        log_evidence.append(MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))
    return (torch.stack(log_evidence).softmax(0)[..., None] * torch.stack(answers)).sum(0)


def averaging(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The w = Σ yᵢxᵢ / n, right on average if x ~ N(0, I)."""
    return (query @ (x.mT @ y[..., None]))[..., 0] / max(1, x.shape[1])


def nearest(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, k: int = 3) -> torch.Tensor:
    """The mean value of the k nearest examples, of all if there are fewer."""
    if not x.shape[1]:
        return zero(x, y, query)
    near = torch.cdist(query, x).topk(min(k, x.shape[1]), largest=False).indices  # (B, m, k)
    return y[:, None].expand(-1, query.shape[1], -1).gather(2, near).mean(-1)


def gradient_descent(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, steps: int) -> torch.Tensor:
    """The w after steps down the gradient of ‖Xw − y‖²/2, from zero, each of size one over its curvature."""
    w, gram = torch.zeros_like(query[:, :1]).mT, x.mT @ x  # (B, d, 1), (B, d, d)
    size = 1 / torch.linalg.matrix_norm(gram, 2).clamp_min(1e-9)[:, None, None]
    for _ in range(steps):
        w = w - size * (gram @ w - x.mT @ y[..., None])
    return (query @ w)[..., 0]


def fitted(
    x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, model: Callable[[], RegressorMixin]
) -> torch.Tensor:
    """The answers of an estimator of scikit-learn that is fitted to each prompt."""
    if not x.shape[1]:
        return zero(x, y, query)
    each = zip(x.numpy(), y.numpy(), query.numpy(), strict=True)
    return torch.stack([torch.as_tensor(model().fit(*xy).predict(q)) for *xy, q in each]).to(y)


# A transformer that reads vectors


class Regressor(nn.Module):
    """A transformer that reads examples (x, y) and questions (x, ?), one position each and in no places.

    An example sees the examples before it; a question sees itself and the examples that it may use. What is
    asked never changes how examples are read, so that all numbers of examples are trained in one pass.

    Args:
        config: its shape; `vocab` is the number of coordinates of x, `length` is not used.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.read_in = nn.Linear(config.vocab + 2, config.d)  # x, y, whether y is given
        self.blocks = nn.ModuleList(Block(config, readouts.softmax) for _ in range(config.layers))
        self.norm, self.read_out = nn.LayerNorm(config.d), nn.Linear(config.d, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor | None = None) -> torch.Tensor:
        """Answers (B, m) to questions (B, m, d); or to each x from the examples before."""
        n, before = x.shape[1], query is None
        query = x if before else query
        examples = torch.cat([x, y[..., None], torch.ones_like(y)[..., None]], -1)
        mask = torch.eye(n + query.shape[1], dtype=torch.bool, device=x.device)
        mask[:n, :n] = mask.new_ones(n, n).tril()
        mask[n:, :n] = mask.new_ones(n, n).tril(-1) if before else True
        return self.read(torch.cat([examples, functional.pad(query, (0, 2))], 1), mask)[:, n:]

    def read(self, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, d + 2) to (B, T): what the model says at each position."""
        if positions.shape[-1] != self.config.vocab + 2:
            raise ValueError(f"x: {positions.shape[-1] - 2} coordinates, expected {self.config.vocab}")
        h = self.read_in(positions)
        for block in self.blocks:
            h = block(h, mask)
        return self.read_out(self.norm(h))[..., 0]


class Interleaved(Regressor):
    """The layout of Garg et al.: x₁, y₁, x₂, … one after another; each x is answered where it stands.

    Args:
        config: as of `Regressor`, rotary: y₁ belongs to x₁ because it comes next.

    Raises:
        ValueError: the configuration is not rotary.
    """

    def __init__(self, config: Config) -> None:
        if not config.rotary:
            raise ValueError("config.rotary=False: expected True, as places say which y belongs to which x")
        super().__init__(config)

    def forward(self, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor | None = None) -> torch.Tensor:
        """As `Regressor.forward`; each question takes a pass of its own."""
        if query is not None:
            m = query.shape[1]
            x, y = (each.repeat_interleave(m, 0) for each in (x, y))
            answers = self(torch.cat([x, query.flatten(0, 1)[:, None]], 1), functional.pad(y, (0, 1)))
            return answers[:, -1].unflatten(0, (-1, m))
        values = torch.cat([torch.zeros_like(x), y[..., None], torch.ones_like(y)[..., None]], -1)
        positions = torch.stack([functional.pad(x, (0, 2)), values], 2).flatten(1, 2)  # (B, 2n, d + 2)
        mask = torch.ones(2 * x.shape[1], 2 * x.shape[1], dtype=torch.bool, device=x.device).tril()
        return self.read(positions, mask)[:, ::2]


@torch.no_grad()
def transformer(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, *, model: Regressor) -> torch.Tensor:
    """The answers of a trained model, which may be on another device."""
    device = next(model.parameters()).device
    return model(x.to(device), y.to(device), query.to(device)).to(x)


def slope(model: Regressor, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """How the answers to questions (B, m, d) change with the question: gradients (B, m, d)."""
    device = next(model.parameters()).device
    query = query.detach().to(device).clone().requires_grad_()
    total = model(x.to(device), y.to(device), query).sum()
    return torch.autograd.grad(total, query)[0].to(x)


Algorithm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def errors(algorithm: Algorithm, prompts: Prompts, shots: Sequence[int]) -> torch.Tensor:
    """Squared errors after the first n examples, for each n of `shots`: (B, len(shots))."""
    each = (prompts.first(n) for n in shots)
    return torch.stack([(algorithm(p.x, p.y, p.query) - p.truth).square().mean(1) for p in each], 1)


# Training


def lesson(B: int, generator: torch.Generator, *, family: Family) -> torch.Tensor:
    """A batch to learn from: examples (B, n, d + 1), the value last."""
    prompts = draw(family, B, generator)
    return torch.cat([prompts.x, prompts.y[..., None]], -1)


def squared_error(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Mean over a `lesson`'s prompts and positions, each answered from the examples before it."""
    x, y = batch[..., :-1], batch[..., -1]
    return (model(x, y) - y).square().mean()


def evaluate(model: Regressor, family: Family) -> dict[str, float]:
    """Mean squared errors of the model, of ridge and of 3 nearest neighbours on the same fresh prompts."""
    prompts = draw(family, 2000, torch.Generator().manual_seed(1), m=4)
    shots = (family.d, 2 * family.d, family.n)
    others = {
        "model": partial(transformer, model=model),
        "ridge": partial(ridge, noise=family.noise or 0.3),
        "3 nearest": nearest,
    }
    means = {name: errors(algorithm, prompts, shots).mean(0) for name, algorithm in others.items()}
    return {
        f"{name}, {n} examples": mean[i].item() for name, mean in means.items() for i, n in enumerate(shots)
    }


def _plan(family: Family, steps: int, build: type[Regressor] = Regressor) -> Plan:
    rotary = build is Interleaved
    config = Config(vocab=family.d, length=2 * family.n, layers=4, heads=4, d=64, rotary=rotary)
    learn, recipe = partial(lesson, family=family), Recipe(steps, warmup=100)
    return Plan(config, recipe, learn, partial(evaluate, family=family), build, squared_error)


STEPS = {"linear-5": 8000, "linear-8": 8000, "trees-8": 6000, "networks-8": 3000}
PLANS = {name: _plan(family, STEPS.get(name, 4000)) for name, family in FAMILIES.items()}
PLANS["linear-5-interleaved"] = _plan(FAMILIES["linear-5"], 5000, Interleaved)
