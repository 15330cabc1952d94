"""Exercises of Induction heads."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise


def _sequence(n: int, V: int) -> Callable[[torch.Generator], tuple]:
    """A sequence (n,) of tokens 0 … V − 1."""
    return lambda generator: (torch.randint(V, (n,), generator=generator),)


def _tokens(n: int, V: int) -> Callable[[torch.Generator], tuple]:
    """A sequence (n,) of tokens 0 … V − 1, and V."""
    return lambda generator: (*_sequence(n, V)(generator), V)


# 1 Where an induction head looks


def _same(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, None] == tokens[None, :]


def _targets(tokens: torch.Tensor) -> torch.Tensor:
    follows = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    follows[:, 1:] = _same(tokens)[:, :-1]
    return follows.tril()


targets = Exercise(
    1,
    reference=_targets,
    inputs={
        "eight tokens out of three": _sequence(8, 3),
        "one token": _sequence(1, 3),
        "twenty tokens out of five": _sequence(20, 5),
    },
    mistakes={
        "marks the earlier places of the present token, not what followed there": lambda tokens: _same(
            tokens
        ).tril(-1),
        "marks what stands in front of them": lambda tokens: torch.cat(
            [_same(tokens)[:, 1:], torch.zeros(len(tokens), 1, dtype=torch.bool)], 1
        ).tril(-2),
        "marks positions that come later": lambda tokens: torch.cat(
            [torch.zeros(len(tokens), 1, dtype=torch.bool), _same(tokens)[:, :-1]], 1
        ),
        "marks only what lies before the position, so that a token that repeats itself is missed": (
            lambda tokens: _targets(tokens).tril(-1)
        ),
        "is turned over: rows look, columns are looked at": lambda tokens: _targets(tokens).T,
    },
)


# 2 Bigram statistics


def _next(tokens: torch.Tensor, V: int, prior: float = 0.5) -> torch.Tensor:
    followed = tokens[1:][tokens[:-1] == tokens[-1]]
    counts = torch.bincount(followed, minlength=V) + prior
    return counts / counts.sum()


bigram = Exercise(
    2,
    reference=_next,
    inputs={
        "twenty tokens out of four": _tokens(20, 4),
        "one token, which nothing has followed yet": _tokens(1, 4),
        "sixty tokens out of three": _tokens(60, 3),
    },
    mistakes={
        "forgets the prior": lambda tokens, V: _next(tokens, V, 0.0),
        "adds one to each count: the prior of these chains is ½": lambda tokens, V: _next(tokens, V, 1.0),
        "counts all tokens, whatever stood in front of them": lambda tokens, V: (
            (torch.bincount(tokens, minlength=V) + 0.5) / (len(tokens) + 0.5 * V)
        ),
        "counts what stood in front of the present token": lambda tokens, V: (
            _next(tokens.flip(0), V)
            if len(tokens) < 2
            else (
                (torch.bincount(tokens[:-1][tokens[1:] == tokens[-1]], minlength=V) + 0.5)
                / (int((tokens[1:] == tokens[-1]).sum()) + 0.5 * V)
            )
        ),
        "returns counts: divide by their sum": lambda tokens, V: (
            torch.bincount(tokens[1:][tokens[:-1] == tokens[-1]], minlength=V) + 0.5
        ),
    },
)


# 3 A circuit by hand


def _circuit(V: int) -> torch.Tensor:
    matrix = torch.zeros(2 * V, 2 * V)
    matrix[:V, V:] = torch.eye(V)
    return matrix


def _block(V: int, row: int, column: int) -> torch.Tensor:
    matrix = torch.zeros(2 * V, 2 * V)
    matrix[row * V : (row + 1) * V, column * V : (column + 1) * V] = torch.eye(V)
    return matrix


circuit = Exercise(
    3,
    reference=_circuit,
    inputs={
        "three tokens": lambda generator: (3,),
        "one token": lambda generator: (1,),
        "seven tokens": lambda generator: (7,),
    },
    mistakes={
        "finds earlier places of the present token: compare it with what stands in front of the key": (
            lambda V: _block(V, 0, 0)
        ),
        "is turned over: rows belong to the query, columns to the key": lambda V: _block(V, 1, 0),
        "compares the tokens in front of both": lambda V: _block(V, 1, 1),
        "compares everything with itself": lambda V: torch.eye(2 * V),
    },
)


# 4 Heads that advise against


def _against(prefix: torch.Tensor, copying: torch.Tensor) -> torch.Tensor:
    return ((prefix >= 0.2) & (copying <= -0.1)).nonzero()


def _heads(layers: int, heads: int) -> Callable[[torch.Generator], tuple]:
    """A prefix-matching score between 0 and 1, and a copying score between −1 and 1, for each head."""

    def make(generator: torch.Generator) -> tuple:
        prefix = torch.rand(layers, heads, generator=generator)
        return prefix, 2 * torch.rand(layers, heads, generator=generator) - 1

    return make


against = Exercise(
    4,
    reference=_against,
    inputs={
        "four layers of five heads": _heads(4, 5),
        "three layers of two heads": _heads(3, 2),
        "ten layers of four heads": _heads(10, 4),
    },
    mistakes={
        "takes the heads that copy": lambda prefix, copying: ((prefix >= 0.2) & (copying >= 0.1)).nonzero(),
        "takes heads that match no prefix, too": lambda prefix, copying: (copying <= -0.1).nonzero(),
        "takes all heads that match": lambda prefix, copying: (prefix >= 0.2).nonzero(),
        "gives (head, layer): the layer comes first": lambda prefix, copying: _against(prefix, copying).flip(
            1
        ),
    },
)
