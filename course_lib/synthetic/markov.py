"""Mixtures of hidden Markov models: documents drawn from them, and exact inference of what they hide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Mixture:
    """K concepts, each a hidden Markov model with H states and V tokens; a document is drawn from one."""

    prior: torch.Tensor  # (K,)
    start: torch.Tensor  # (K, H), of the first state
    transition: torch.Tensor  # (K, H, H), from a state (row) to the next
    emission: torch.Tensor  # (K, H, V), the token that a state shows

    def __post_init__(self) -> None:
        K, H, V = self.emission.shape
        shapes = {"prior": (K,), "start": (K, H), "transition": (K, H, H), "emission": (K, H, V)}
        for name, shape in shapes.items():
            table = getattr(self, name)
            if table.shape != shape or (table < 0).any() or (table.sum(-1) - 1).abs().max() > 1e-6:
                got = tuple(table.shape)
                raise ValueError(f"{name}: expected {shape} probabilities in rows of sum one, got {got}")

    def only(self, concept: int) -> Mixture:
        """The mixture of that one concept."""
        each = (table[concept, None] for table in (self.start, self.transition, self.emission))
        return Mixture(torch.ones_like(self.prior[:1]), *each)


def dirichlet(concentration: float, *shape: int, generator: torch.Generator) -> torch.Tensor:
    """Random probabilities along the last axis, float64; the smaller the concentration, the more peaked."""
    gamma = torch._standard_gamma(torch.full(shape, concentration, dtype=torch.float64), generator)
    return (gamma + 1e-12) / (gamma + 1e-12).sum(-1, keepdim=True)


def markov_chains(K: int, V: int, seed: int) -> Mixture:
    """K Markov chains over V tokens: each state shows its own token, and the first is uniform.

    Args:
        K: concepts.
        V: states and tokens.
        seed: of the transitions.
    """
    generator = torch.Generator().manual_seed(seed)
    transition = 0.95 * dirichlet(1.0, K, V, V, generator=generator) + 0.05 / V
    start = torch.full((K, V), 1 / V, dtype=torch.float64)
    return Mixture(start.new_full((K,), 1 / K), start, transition, torch.eye(V).double().expand(K, V, V))


def hidden_markov(K: int, V: int, seed: int) -> Mixture:
    """K hidden Markov models over V tokens and a delimiter, in the manner of GINC (Xie et al. 2021).

    Each token is shown by two of 2V states, and every tenth time by any, so that what comes next needs the
    tokens before. The concepts differ in their transitions alone. The last state shows the delimiter, which
    is token V: after it the next state is drawn anew, so that a document is a list of independent examples.

    Args:
        K: concepts.
        V: tokens without the delimiter.
        seed: of the transitions.
    """
    generator, H, reset = torch.Generator().manual_seed(seed), 2 * V, 0.15  # how often a delimiter follows
    between = 0.97 * dirichlet(0.01, K, H, H, generator=generator) + 0.03 / H
    transition, emission = between.new_zeros(K, H + 1, H + 1), between.new_zeros(K, H + 1, V + 1)
    transition[:, :H, :H], transition[:, :H, H], transition[:, H, :H] = (1 - reset) * between, reset, 1 / H
    emission[:, torch.arange(H), torch.arange(H) // 2] = 0.9
    emission[:, :H, :V] += 0.1 / V
    emission[:, H, V] = 1.0
    return Mixture(between.new_full((K,), 1 / K), transition[:, H], transition, emission)


def sample(
    mixture: Mixture, n: int, length: int, generator: torch.Generator, concept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents, and the concept of each.

    Args:
        mixture: what they are drawn from.
        n: how many.
        length: tokens of each.
        generator: seeded.
        concept: (n,) to draw them from given concepts.

    Returns:
        Tokens (n, length) and concepts (n,).
    """
    if concept is None:
        concept = torch.multinomial(mixture.prior, n, replacement=True, generator=generator)
    state, tokens = _choose(mixture.start[concept], generator), []
    for _ in range(length):
        tokens.append(_choose(mixture.emission[concept, state], generator))
        state = _choose(mixture.transition[concept, state], generator)
    return torch.stack(tokens, 1), concept


def _choose(p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(n,) indices drawn from rows (n, m) of probabilities."""
    u = torch.rand(len(p), 1, generator=generator, dtype=p.dtype)
    return (u > p.cumsum(-1)).sum(-1).clamp(max=p.shape[-1] - 1)


def examples(
    mixture: Mixture, concept: torch.Tensor, n: int, length: int, generator: torch.Generator
) -> torch.Tensor:
    """Independent examples of each concept, as prompts are made of: no delimiter falls into them.

    Args:
        mixture: made by `hidden_markov`.
        concept: (N,) of each prompt.
        n: examples for each.
        length: tokens of an example; the last is its answer.
        generator: seeded.

    Returns:
        (N, n, length) tokens.
    """
    between = mixture.transition[:, :-1, :-1]  # what never goes to the delimiter
    start, emission = mixture.start[:, :-1], mixture.emission[:, :-1]
    within = Mixture(mixture.prior, start, between / between.sum(-1, keepdim=True), emission)
    tokens, _ = sample(within, n * len(concept), length, generator, concept.repeat_interleave(n))
    return tokens.unflatten(0, (-1, n))


def prompt(of: torch.Tensor, delimiter: int | None) -> torch.Tensor:
    """Examples (N, n, length) one after another with a delimiter between them, (N, T); None: with nothing.

    The last token is the answer of the last example; what comes before it is the prompt proper.
    """
    if delimiter is None:
        return of.flatten(1)
    return torch.cat([of, torch.full_like(of[:, :, :1], delimiter)], -1).flatten(1)[:, :-1]


# Exact inference


@dataclass(frozen=True)
class Inference:
    """What is known of documents after each of their first t = 0 … T tokens."""

    posterior: torch.Tensor  # (N, T + 1, K), p(concept | tokens)
    by_concept: torch.Tensor  # (N, T + 1, K, V), p(next token | concept, tokens)

    @property
    def predictive(self) -> torch.Tensor:
        """(N, T + 1, V): p(next | tokens) = Σ p(next | concept, tokens) p(concept | tokens)."""
        return (self.posterior[..., None] * self.by_concept).sum(-2)


def infer(mixture: Mixture, tokens: torch.Tensor) -> Inference:
    """Bayes' rule over the concepts; the forward algorithm, in log space, over the states (Rabiner 1989).

    Args:
        mixture: what the documents are assumed to be drawn from.
        tokens: (N, T).

    Raises:
        ValueError: a token is not one of the mixture's.
    """
    V = mixture.emission.shape[-1]
    if not ((tokens >= 0) & (tokens < V)).all():
        raise ValueError(f"tokens: expected 0 to {V - 1}, got {int(tokens.min())} to {int(tokens.max())}")
    log_transition = mixture.transition.log()
    log_joint = mixture.start.log().expand(len(tokens), -1, -1)  # (N, K, H), log p(tokens so far, state)
    posterior, by_concept = [], []
    for t in range(tokens.shape[1] + 1):
        log_evidence = log_joint.logsumexp(-1)  # (N, K), log p(tokens so far | concept)
        posterior.append((mixture.prior.log() + log_evidence).softmax(-1))
        state = (log_joint - log_evidence[..., None]).exp().nan_to_num()  # (N, K, H)
        by_concept.append(torch.einsum("nkh,khv->nkv", state, mixture.emission))
        if t < tokens.shape[1]:
            seen = mixture.emission[:, :, tokens[:, t]].permute(2, 0, 1).log()  # (N, K, H)
            log_joint = ((log_joint + seen)[..., None] + log_transition).logsumexp(-2)
    return Inference(torch.stack(posterior, 1), torch.stack(by_concept, 1))


def forgetful(mixture: Mixture, tokens: torch.Tensor, window: int) -> torch.Tensor:
    """The predictive of a reader who sees the last tokens only, as if a document began there in any state.

    Args:
        mixture: what the documents are drawn from.
        tokens: (N, T).
        window: how many of the last tokens it sees.

    Returns:
        (N, T, V): p(next token) after each of the first 1 … T tokens.
    """
    early = infer(mixture, tokens[:, :window]).predictive[:, 1:]
    anywhere = replace(mixture, start=torch.full_like(mixture.start, 1 / mixture.start.shape[1]))
    seen = tokens.unfold(1, window, 1)[:, 1:]  # (N, T − window, window)
    late = infer(anywhere, seen.flatten(0, 1)).predictive[:, -1]
    return torch.cat([early, late.unflatten(0, seen.shape[:2])], 1)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) along the last axis, in nats; zero where p is."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


# Every document its own chain


def own_chains(
    V: int = 4, length: int = 64, concentration: float = 0.5
) -> Callable[[int, torch.Generator], torch.Tensor]:
    """Draws Markov chains that are all different: which token follows which has to be read in the sequence.

    Args:
        V: tokens.
        length: of a sequence.
        concentration: of the Dirichlet distribution of each token's successors; small is predictable.
    """

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        follows = dirichlet(concentration, n, V, V, generator=generator)
        tokens = [torch.randint(V, (n,), generator=generator)]
        for _ in range(length - 1):
            following = follows[torch.arange(n), tokens[-1]]  # (n, V)
            tokens.append(torch.multinomial(following, 1, generator=generator)[:, 0])
        return torch.stack(tokens, 1)

    return draw


def bigrams(tokens: torch.Tensor, V: int = 4, concentration: float = 0.5) -> torch.Tensor:
    """The exact prediction for `own_chains`: how often each token followed the present one, plus the prior.

    Args:
        tokens: (N, T).
        V: as in `own_chains`.
        concentration: as there.

    Returns:
        (N, T, V) probabilities of the next token.
    """
    one_hot = functional.one_hot(tokens, V).double()
    pairs = one_hot[:, :-1, :, None] * one_hot[:, 1:, None, :]  # (N, T − 1, V, V)
    counts = functional.pad(pairs.cumsum(1), (0, 0, 0, 0, 1, 0))  # (N, T, V, V), those before
    following = torch.einsum("ntv,ntvw->ntw", one_hot, counts) + concentration
    return following / following.sum(-1, keepdim=True)
