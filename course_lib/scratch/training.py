"""One training loop for all that the book trains; Accelerate spreads it over processes or GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from course_lib.scratch import checkpoints
from course_lib.scratch.muon import Muon
from course_lib.scratch.recipe import Recipe
from course_lib.scratch.transformer import Config, Transformer

EVERY = 200  # steps between two states kept
Draw = Callable[[int, torch.Generator], torch.Tensor]  # how many, seeded -> (B, T) token ids, or vectors
Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def next_token(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of each token (B, T) but the first after those before it."""
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Plan:
    """What makes a checkpoint; `python -m course_lib.studies.train NAME` carries it out."""

    config: Config
    recipe: Recipe
    draw: Draw
    evaluate: Callable[[Any], dict[str, float]]  # numbers by name, the same whenever it is called
    build: Callable[[Config], nn.Module] = Transformer
    loss: Loss = next_token

    def start(self) -> nn.Module:
        """The model before its first step."""
        torch.manual_seed(self.recipe.seed)
        return self.build(self.config)


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of linear layers, AdamW for all else.

    Muon makes the steps of a matrix orthogonal; scaled to the size of Adam's, they share a learning rate.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    matrices = {id(layer.weight): layer.weight for layer in layers}
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    decay = recipe.weight_decay
    adamw = torch.optim.AdamW(others, recipe.lr, betas=(0.9, 0.99), weight_decay=decay)
    if not matrices:
        return [adamw]
    return [Muon(matrices.values(), recipe.lr, decay), adamw]


def train(
    model: nn.Module,
    draw: Draw,
    recipe: Recipe,
    *,
    loss: Loss = next_token,
    until: int | None = None,
    resume: Path | None = None,
    each: Callable[[int, nn.Module], None] | None = None,
) -> list[float]:
    """Trains a model in place; every process draws the whole batch and takes its share.

    Args:
        model: moved to the device that Accelerate chooses, a GPU if there is one, and trained there.
        draw: makes a batch of sequences; called once a step.
        recipe: steps, batch size, learning rate, seed.
        loss: the mean over a batch of what is to become small.
        until: stop before this step of the recipe; by default after its last.
        resume: a file that keeps the state every EVERY steps: a run that was interrupted goes on from there.
        each: called with the number of steps done and the model, before the first step and after each.

    Returns:
        The loss of each step, averaged over the processes.

    Raises:
        ValueError: `until` is not a step of the recipe, or the batch does not divide among the processes.
    """
    until = recipe.steps if until is None else until
    if not 0 <= until <= recipe.steps:
        raise ValueError(f"until={until}: expected a step of the recipe, 0 to {recipe.steps}")
    accelerator = Accelerator()
    share, left = divmod(recipe.batch, accelerator.num_processes)
    if left:
        processes = accelerator.num_processes
        raise ValueError(f"recipe.batch={recipe.batch}: expected a multiple of the {processes} processes")
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    bare = optimizers(model, recipe)
    losses = checkpoints.take_up(resume, model, bare, recipe) if resume else []
    prepared, *optims = accelerator.prepare(model.train(), *bare)
    if each and not losses:
        each(0, model)
    for step in tqdm(range(len(losses), until), "steps", leave=False, initial=len(losses), total=until):
        tokens = draw(recipe.batch, recipe.generator(step))[mine].to(accelerator.device)
        value = loss(prepared, tokens)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        for optimizer in optims:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(accelerator.reduce(value.detach(), "mean").item())
        if each:
            each(step + 1, model)
        if resume and (step + 1) % EVERY == 0 and accelerator.is_main_process:
            checkpoints.keep(resume, model, bare, recipe, losses)
    model.eval()
    return losses
