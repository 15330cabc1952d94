"""Exercises of The concept posterior."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise
from course_lib.synthetic import markov

# 1 Posterior


def _posterior(prior: torch.Tensor, log_likelihood: torch.Tensor) -> torch.Tensor:
    return (prior.log() + log_likelihood.sum(0)).softmax(-1)


def _likelihoods(n: int, K: int, scale: float) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda generator: (
        torch.rand(K, generator=generator).double().softmax(-1),
        -scale * torch.rand(n, K, generator=generator, dtype=torch.float64),
    )


posterior = Exercise(
    1,
    reference=_posterior,
    inputs={
        "three examples, two concepts": _likelihoods(3, 2, 3.0),
        "one example": _likelihoods(1, 4, 2.0),
        "four hundred examples": _likelihoods(400, 3, 9.0),
    },
    mistakes={
        "forgets the prior": lambda prior, log_likelihood: log_likelihood.sum(0).softmax(-1),
        "adds the prior once per example: it counts once": lambda prior, log_likelihood: (
            (prior.log() + log_likelihood).sum(0).softmax(-1)
        ),
        "adds the prior without its logarithm": lambda prior, log_likelihood: (
            prior + log_likelihood.sum(0)
        ).softmax(-1),
        "averages over examples: independent examples multiply their likelihoods": (
            lambda prior, log_likelihood: (prior.log() + log_likelihood.mean(0)).softmax(-1)
        ),
        "uses the last example only": lambda prior, log_likelihood: (
            prior.log() + log_likelihood[-1]
        ).softmax(-1),
        "sums over concepts: expected one number for each concept": lambda prior, log_likelihood: (
            log_likelihood.sum(1).softmax(-1)
        ),
        "divides by zero when likelihoods are tiny: stay with logarithms and use softmax at the end": (
            lambda prior, log_likelihood: (
                prior * log_likelihood.sum(0).exp() / (prior * log_likelihood.sum(0).exp()).sum()
            )
        ),
        "does not divide by the sum: a posterior has sum one": lambda prior, log_likelihood: (
            prior * log_likelihood.sum(0).exp()
        ),
    },
)


# 2 The forward algorithm


def _forward(
    start: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    joint = start * emission[:, tokens[0]]
    for token in tokens[1:]:
        joint = (joint @ transition) * emission[:, token]
    return joint.sum()


def _transposed(
    start: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    return _forward(start, transition.T, emission, tokens)


def _best_path(
    start: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    joint = start * emission[:, tokens[0]]
    for token in tokens[1:]:
        joint = (joint[:, None] * transition).amax(0) * emission[:, token]
    return joint.max()


def _moves_first(
    start: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    joint = start
    for token in tokens:
        joint = (joint @ transition) * emission[:, token]
    return joint.sum()


def _normalised(
    start: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    joint = start * emission[:, tokens[0]]
    for token in tokens[1:]:
        joint = ((joint / joint.sum()) @ transition) * emission[:, token]
    return joint.sum()


def _chain(H: int, V: int, T: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    def make(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        tables = (markov.dirichlet(1.0, *shape, generator=generator) for shape in ((H,), (H, H), (H, V)))
        return (*tables, torch.randint(V, (T,), generator=generator))

    return make


forward = Exercise(
    2,
    reference=_forward,
    inputs={
        "two states, three tokens": _chain(2, 2, 3),
        "one token": _chain(3, 4, 1),
        "five states, ten tokens": _chain(5, 3, 10),
    },
    mistakes={
        "moves from column to row: row h of the transition leads from state h": _transposed,
        "follows the most likely states only: the tokens' probability sums over all states": _best_path,
        "moves before the first token: the first state is drawn from start": _moves_first,
        "divides by the sum on the way and forgets it: those sums belong to the probability": _normalised,
        "ignores the first token": lambda start, transition, emission, tokens: (
            _forward(start, transition, torch.ones_like(emission[:, :1]), torch.zeros_like(tokens[:1]))
            if len(tokens) == 1
            else _forward(start @ transition, transition, emission, tokens[1:])
        ),
        "returns the logarithm: expected the probability": lambda start, transition, emission, tokens: (
            _forward(start, transition, emission, tokens).log()
        ),
    },
)


# 3 What comes next


def _predictive(posterior: torch.Tensor, by_concept: torch.Tensor) -> torch.Tensor:
    return posterior @ by_concept


def _weights(K: int, V: int, concentration: float) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda generator: (
        markov.dirichlet(concentration, K, generator=generator),
        markov.dirichlet(1.0, K, V, generator=generator),
    )


predictive = Exercise(
    3,
    reference=_predictive,
    inputs={
        "two concepts": _weights(2, 3, 2.0),
        "five concepts": _weights(5, 4, 1.0),
        "as many concepts as tokens": _weights(4, 4, 0.5),
    },
    mistakes={
        "takes the likeliest concept for certain: weigh all of them": lambda posterior, by_concept: (
            by_concept[posterior.argmax()]
        ),
        "weighs every concept alike": lambda posterior, by_concept: by_concept.mean(0),
        "averages logarithms: probabilities are averaged themselves": lambda posterior, by_concept: (
            posterior @ by_concept.log()
        ).softmax(-1),
        "does not divide the averaged logarithms, and averages logarithms: average the probabilities": (
            lambda posterior, by_concept: (posterior @ by_concept.log()).exp()
        ),
        "sums the concepts without weights": lambda posterior, by_concept: by_concept.sum(0),
        "does not sum over concepts": lambda posterior, by_concept: posterior[:, None] * by_concept,
    },
)


# 4 Two hypotheses


def _odds(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    total = torch.cat([seen.new_zeros(2, 1), seen.cumsum(1)], 1).log_softmax(0)  # (2, n + 1)
    mixed = (total[:, :, None] + answers[:, None]).logsumexp(0)  # (n + 1, 2)
    return mixed[:, 0] - mixed[:, 1]


def _shifted(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return _odds(seen, answers)[1:]


def _sum_of_odds(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return torch.cat([seen.new_zeros(1), (seen[0] - seen[1]).cumsum(0)])


def _sure(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    total = torch.cat([seen.new_zeros(2, 1), seen.cumsum(1)], 1)
    chosen = answers[(total[1] > total[0]).long()]  # (n + 1, 2)
    return chosen[:, 0] - chosen[:, 1]


def _mixed_odds(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    total = torch.cat([seen.new_zeros(2, 1), seen.cumsum(1)], 1).softmax(0)
    return (total * (answers[:, 0] - answers[:, 1])[:, None]).sum(0)


def _unnormalised(seen: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    each = torch.cat([seen.new_zeros(2, 1), seen], 1).log_softmax(0)
    mixed = (each[:, :, None] + answers[:, None]).logsumexp(0)
    return mixed[:, 0] - mixed[:, 1]


def _demonstrations(n: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda generator: (
        -4 * torch.rand(2, n, generator=generator, dtype=torch.float64),
        -5 * torch.rand(2, 2, generator=generator, dtype=torch.float64),
    )


two_hypotheses = Exercise(
    4,
    reference=_odds,
    inputs={
        "three demonstrations": _demonstrations(3),
        "eight demonstrations": _demonstrations(8),
        "no demonstration": _demonstrations(0),
    },
    mistakes={
        "leaves out the odds before the first demonstration": _shifted,
        "returns the odds of the tasks: what is asked are the odds of the answers": _sum_of_odds,
        "takes the likelier task for certain: weigh both": _sure,
        "averages the log-odds of the tasks: average the probabilities, then take the logarithm": _mixed_odds,
        "uses the last demonstration only: evidence adds up": _unnormalised,
        "has the sign the wrong way round: log p(a) − log p(b)": lambda seen, answers: -_odds(seen, answers),
    },
)
