"""Pretrained on points of many densities, does a model locate one, or reshape it?

Four experiments on models that were pretrained on the documents of `synthetic.distributions`, each
beside exact Bayes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch.distributions import Laplace

from course_lib.scratch.recipe import Recipe
from course_lib.scratch.training import Plan
from course_lib.scratch.transformer import Config, Transformer, logits
from course_lib.synthetic.distributions import (
    BINS,
    FAMILIES,
    FLOOR,
    LENGTH,
    LOWEST,
    NOISE,
    VOCAB,
    WIDTH,
    XS,
    Bayes,
    Densities,
    centres,
    documents,
    draw_densities,
    draw_points,
    family_token,
    from_quantiles,
    grid,
    points,
    x_token,
)
from course_lib.synthetic.markov import kl

# Prompts, and what a reader makes of them


@dataclass(frozen=True)
class Prompts:
    """Points of N distributions, and an x for each whose P(x) and family are asked."""

    densities: Densities  # (N,)
    x: torch.Tensor  # (N, n)
    log_p: torch.Tensor  # (N, n), in nats
    x0: torch.Tensor  # (N,)
    truth: torch.Tensor  # (N,) log P(x0), in nats; not less than what the lowest bin can say

    def first(self, n: int) -> Prompts:
        """The same with the first n points."""
        return replace(self, x=self.x[:, :n], log_p=self.log_p[:, :n])

    def tokens(self, names: torch.Tensor | None = None, *, name_of_x0: bool = False) -> torch.Tensor:
        """Up to the question, and behind it a name if P is asked after one.

        Args:
            names: (N, n + 1) families: one for each point, and one for x0.
            name_of_x0: end with the last of them.
        """
        asked = [
            points(self.x, self.log_p, None if names is None else names[:, :-1]),
            x_token(self.x0)[:, None],
        ]
        if name_of_x0:
            asked.append(family_token(names[:, -1:]))
        return torch.cat(asked, 1)


def draw_prompts(
    densities: Densities,
    n: int,
    seed: int,
    *,
    spread: float = 4.0,
    beyond: float = 0.0,
    asked: tuple[float, float] | None = None,
) -> Prompts:
    """Prompts of n points each.

    Args:
        densities: (N,).
        n: points of each.
        seed: another seed draws others.
        spread: points lie at most so many standard deviations from the mean,
        beyond: and at least so many.
        asked: the same two numbers, nearest first, for x0; by default as the points.
    """
    generator = torch.Generator().manual_seed(seed)
    x, log_p = draw_points(densities, n, generator, spread=spread, beyond=beyond)
    near, far = asked or (beyond, spread)
    x0, _ = draw_points(densities, 1, generator, spread=far, beyond=near)
    return Prompts(densities, x, log_p, x0[:, 0], _sayable(densities.log_density(x0[:, 0])))


def shifted(prompts: Prompts, by: float) -> Prompts:
    """The same prompts with so many nats added to every log P, which pretraining never does."""
    return replace(prompts, log_p=prompts.log_p + by, truth=_sayable(prompts.truth + by))


def scaled(prompts: Prompts, by: float) -> Prompts:
    """The same prompts with every log P multiplied by a number: flatter, if it is below one."""
    return replace(prompts, log_p=prompts.log_p * by, truth=_sayable(prompts.truth * by))


def laplace(prompts: Prompts, seed: int) -> Prompts:
    """The same x, but P of Laplace distributions of the same means and deviations: a foreign family."""
    mean, std = prompts.densities.mean_std()
    noise = NOISE * torch.randn(prompts.x.shape, generator=torch.Generator().manual_seed(seed))
    log_p = Laplace(mean[:, None], std[:, None] / 2**0.5).log_prob(prompts.x) + noise
    return replace(prompts, log_p=log_p, truth=_sayable(Laplace(mean, std / 2**0.5).log_prob(prompts.x0)))


def _sayable(log_p: torch.Tensor) -> torch.Tensor:
    return log_p.clamp(min=FLOOR + WIDTH / 2)


class Answer(NamedTuple):
    """What a reader says to N prompts."""

    log_p: torch.Tensor  # (N,) the expected log P(x0), in nats
    family: torch.Tensor  # (N, FAMILIES) probabilities


def error(answer: Answer, prompts: Prompts) -> torch.Tensor:
    """|expected − true log P(x0)| (N,), in nats."""
    return (answer.log_p - prompts.truth).abs()


def right(answer: Answer, prompts: Prompts) -> torch.Tensor:
    """Whether the likeliest family is the true one (N,), 0 or 1."""
    return (answer.family.argmax(-1) == prompts.densities.family).float()


def predict(model: Transformer, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model expects: log p(bin of log P) (N, BINS) if P comes next, log p(family) (N, FAMILIES).

    Args:
        model: trained on `documents`.
        tokens: (N, T), up to an x, or to a name when P is asked for.
    """
    density, family = logits(model, tokens)[:, -1, XS:].split([BINS, len(FAMILIES)], -1)
    return density.log_softmax(-1), family.log_softmax(-1)


def model_answers(model: Transformer, prompts: Prompts, names: torch.Tensor | None = None) -> Answer:
    """A model's answers: the family after x0; P after x0, or after x0 and its name if the points have names.

    Args:
        model: trained on `documents`.
        prompts: N prompts of n points.
        names: (N, n + 1) families, see `Prompts.tokens`.
    """
    log_density, log_family = predict(model, prompts.tokens(names))
    if names is not None:
        log_density, _ = predict(model, prompts.tokens(names, name_of_x0=True))
    return Answer(log_density.exp() @ centres(), log_family.exp())


def bayes_answers(
    bayes: Bayes,
    prompts: Prompts,
    names: torch.Tensor | None = None,
    shares: tuple[float, ...] = (0.001,),
) -> Answer:
    """Exact answers to the questions of `model_answers`.

    Args:
        bayes: the reader.
        prompts: N prompts of n points.
        names: (N, n + 1) families, see `Prompts.tokens`; then the answer is the name that x0 can be expected
            to have, and P is asked for after it has been given.
        shares: of names that pretraining exchanged at random, see `naming`.
    """
    log_w = bayes.log_weights(prompts.x, prompts.log_p, prompts.x0)
    if names is None:
        posterior = log_w.softmax(-1)
        return Answer(bayes.density(posterior, prompts.x0) @ centres(), bayes.family(posterior))
    (before, exchanged), (after, _) = (naming(given, shares) for given in (names[:, :-1], names))
    before, after = ((log_w + said[:, bayes.densities.family]).softmax(-1) for said in (before, after))
    expected = name(bayes.family(before), exchanged)
    return Answer(bayes.density(after, prompts.x0) @ centres(), expected)


def copied(prompts: Prompts) -> torch.Tensor:
    """A control: log P (N,) of the point of the prompt whose x is nearest to x0."""
    nearest = (prompts.x - prompts.x0[:, None]).abs().argmin(1, keepdim=True)
    return prompts.log_p.gather(1, nearest)[:, 0]


def located(prompts: Prompts, *, free: bool = False, cells: int = 240) -> torch.Tensor:
    """A reader that locates and keeps: log P(x0) (N,) of the pretraining density that fits the points best.

    It takes the one of all densities of the grid with the least squares between its log P and the points',
    wherever these lie.

    Args:
        prompts: N prompts.
        free: reshape, too: add to each density the number that fits best.
        cells: of the grid, see `Bayes`.
    """
    densities, _ = grid(cells)
    log_p = densities.log_density(torch.arange(LOWEST, LOWEST + XS)[:, None]).clamp(min=FLOOR)  # (XS, G)
    answers = []
    for x, seen, x0 in zip(x_token(prompts.x), prompts.log_p, x_token(prompts.x0), strict=True):
        off = seen[:, None] - log_p[x]  # (n, G)
        added = off.mean(0) if free else torch.zeros(off.shape[1])
        best = (off - added).square().sum(0).argmin()
        answers.append(log_p[x0, best] + added[best])
    return torch.stack(answers)


# Names and foreign points


def give_names(prompts: Prompts, kind: str, seed: int) -> torch.Tensor:
    """A name for each point and for x0.

    Args:
        prompts: N prompts of n points.
        kind: "true"; "random"; "half", each random in half of the cases; or "wrong", always the same one.
        seed: another seed draws others.

    Returns:
        (N, n + 1) families.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in ("true", "half", "random", "wrong"):
        raise ValueError(f"kind={kind!r}: expected 'true', 'half', 'random' or 'wrong'")
    generator, F = torch.Generator().manual_seed(seed), len(FAMILIES)
    N, n = prompts.x.shape
    true = prompts.densities.family[:, None].expand(N, n + 1)
    other = torch.randint(1, F, (N, 1), generator=generator)
    if kind == "wrong":
        return (true + other) % F
    share = {"true": 0.0, "half": 0.5, "random": 1.0}[kind]
    drawn = torch.randint(F, (N, n + 1), generator=generator)
    return drawn.where(torch.rand(N, n + 1, generator=generator) < share, true)


def naming(names: torch.Tensor, shares: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What names say to a reader who knows that a share of them, one of these, is exchanged.

    Args:
        names: (N, n) families.
        shares: of names that are exchanged for names at random; each share is as likely.

    Returns:
        For each true family (N, FAMILIES) the log-likelihood of the names, and (N, FAMILIES) the share to be
        expected then.
    """
    F = len(FAMILIES)
    agree = (names[..., None] == torch.arange(F)).float()  # (N, n, FAMILIES)
    at = torch.tensor(shares)[:, None, None, None]
    log_p = ((1 - at) * agree + at / F + 1e-30).log().sum(2)  # (shares, N, FAMILIES)
    expected = (log_p.softmax(0) * at[:, 0]).sum(0)
    return log_p.logsumexp(0) - torch.tensor(float(len(shares))).log(), expected


def name(family: torch.Tensor, exchanged: torch.Tensor | float) -> torch.Tensor:
    """p(next name) (N, FAMILIES), from p(family | prompt) and the share of names exchanged, see `naming`."""
    return family * (1 - exchanged) + (family * exchanged).sum(-1, keepdim=True) / len(FAMILIES)


def contaminated(prompts: Prompts, share: float, seed: int) -> Prompts:
    """A share of each prompt's points is exchanged for points of one other distribution of another family."""
    generator = torch.Generator().manual_seed(seed)
    (N, n), F = prompts.x.shape, len(FAMILIES)
    family = (prompts.densities.family + torch.randint(1, F, (N,), generator=generator)) % F
    other = from_quantiles(family, *torch.rand(2, N, generator=generator))
    x, log_p = draw_points(other, n, generator, spread=4.0)
    places = torch.rand(N, n, generator=generator).argsort(1) < round(share * n)
    return replace(prompts, x=x.where(places, prompts.x), log_p=log_p.where(places, prompts.log_p))


# The models


def evaluate(model: Transformer, *, spread: float, noisy: bool, n: int = 300) -> dict[str, float]:
    """KL from exact Bayes for log P(x0) and for the name of x0 after 1, 4 and 16 points without names, nats.

    Args:
        model: trained on `documents`.
        spread: of its pretraining.
        noisy: whether a share of the names was exchanged in it.
        n: prompts.
    """
    generator = torch.Generator().manual_seed(1)
    drawn = draw_prompts(draw_densities(n, generator), 16, seed=1, spread=spread)
    bayes, found = Bayes(spread), {}
    for shots in (1, 4, 16):
        prompts = drawn.first(shots)
        posterior = bayes.log_weights(prompts.x, prompts.log_p, prompts.x0).softmax(-1)
        exchanged = 0.5 if noisy else 0.0  # on average
        exact = bayes.density(posterior, prompts.x0), name(bayes.family(posterior), exchanged)
        for what, p, log_q in zip(("P", "the name"), exact, predict(model, prompts.tokens()), strict=True):
            found[f"KL of {what}, {shots} points"] = kl(p, log_q.exp()).mean().item()
    return found


def _plan(**pretraining: float | bool) -> Plan:
    config = Config(vocab=VOCAB, length=LENGTH, layers=4, heads=4, d=64, rotary=True)
    recipe = Recipe(steps=6000, lr=0.02, warmup=100)
    return Plan(config, recipe, partial(documents, **pretraining), partial(evaluate, **pretraining))


PLANS = {
    "densities": _plan(spread=4.0, noisy=False),
    "densities-noisy": _plan(spread=4.0, noisy=True),
    "densities-2sigma": _plan(spread=2.0, noisy=False),
}
