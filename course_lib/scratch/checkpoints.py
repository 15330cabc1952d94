"""Trained small models as files: the weights, and in the header everything it takes to make them again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.packages import versions, whole
from course_lib.scratch.recipe import Recipe
from course_lib.scratch.transformer import Config, Transformer

FOLDER = files("course_lib.scratch")  # works from a checkout and from an installed wheel
SUFFIX = ".safetensors"
Model = TypeVar("Model", bound=nn.Module)
MADE_BY = ("torch", "safetensors", "accelerate", "course-lib")


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself."""

    config: Config
    recipe: Mapping[str, Any]  # steps, batch, lr, seed …, see `Recipe`
    command: str  # what to type to train it again
    losses: Sequence[float]  # of each step, in nats
    evaluation: Mapping[str, float]  # measured when it was saved
    versions: Mapping[str, str]


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    recipe: Recipe,
    command: str,
    losses: Sequence[float],
    evaluation: Mapping[str, float],
) -> None:
    """Writes a checkpoint; the file appears whole or not at all.

    Args:
        path: the file, by custom NAME.safetensors; its folder is made.
        model: its weights are stored in float32.
        recipe: how it was trained.
        command: what to type to train it again.
        losses: of each step, stored to four decimals.
        evaluation: numbers by name that `evaluate` of its plan gives again.
    """
    rounded = [round(loss, 4) for loss in losses]
    about = About(model.config, asdict(recipe), command, rounded, dict(evaluation), versions(*MADE_BY))
    weights = {name: tensor.float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write(Path(path), weights, asdict(about))


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    build: Callable[[Config], Model] = Transformer,
) -> Model:
    """The model of a shipped checkpoint of that name, or of a file that ends with ".safetensors".

    Args:
        name: as in `names()`, or a path.
        device: where to put it; by default the GPU if there is one.
        build: makes a model of the checkpoint's `Config`; another kind than was saved is an error.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message lists what there is.
        ValueError: the file is damaged, or not a checkpoint of this course.
    """
    model = build(about(name).config)
    try:
        model.load_state_dict(load_file(_find(name)))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"name={str(name)!r}: the weights do not fit the model: {error}") from error
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def about(name: str | os.PathLike[str]) -> About:
    """How a checkpoint was made. Arguments and errors as `load`."""
    about = _header(_find(name))
    return About(**about | {"config": Config(**about["config"])})


def names() -> list[str]:
    """The shipped checkpoints."""
    return sorted(file.name.removesuffix(SUFFIX) for file in FOLDER.iterdir() if file.name.endswith(SUFFIX))


# A run that may be interrupted


def keep(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    recipe: Recipe,
    losses: Sequence[float],
) -> None:
    """Writes all that `take_up` needs to go on as if nothing had happened."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for place, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{i}.{place}.{name}": tensor for name, tensor in state.items()}
    about = {"recipe": asdict(recipe), "losses": list(losses)}
    _write(path, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, about)


def take_up(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], recipe: Recipe
) -> list[float]:
    """Puts a kept state into the model and its optimizers; the losses so far, none if there is no file.

    Raises:
        ValueError: the file was kept by a run with another recipe, or is damaged.
    """
    if not path.is_file():
        return []
    about = _header(path)
    if about["recipe"] != asdict(recipe):
        raise ValueError(f"resume={str(path)!r}: kept by a run with another recipe, {about['recipe']}")
    tensors = load_file(path)
    model.load_state_dict({name: tensors.pop(f"model.{name}") for name in model.state_dict()})
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        i, place, key = name.split(".")
        states[int(i)].setdefault(int(place), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return about["losses"]


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not written by this course: {error}") from error


def _write(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    with whole(path) as part:
        save_file(dict(tensors), part, {"about": json.dumps(about, ensure_ascii=False)})


def _find(name: str | os.PathLike[str]) -> Path:
    path = Path(name) if str(name).endswith(SUFFIX) else Path(str(FOLDER)) / f"{name}{SUFFIX}"
    if not path.is_file():
        raise FileNotFoundError(f"name={str(name)!r}: no such checkpoint; shipped are {', '.join(names())}")
    return path
