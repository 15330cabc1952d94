"""Trains a checkpoint that the book ships, or another like it: `python -m course_lib.studies.train NAME`.

With `accelerate launch -m …` on several GPUs, with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node=2 -m …`
on several processes without one. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from course_lib.inference import concepts, densities
from course_lib.learning import functions
from course_lib.scratch import checkpoints
from course_lib.scratch.training import Plan, train

PLANS: dict[str, Plan] = concepts.PLANS | densities.PLANS | functions.PLANS


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, evaluates and writes NAME.safetensors."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies.train", description=__doc__)
    parser.add_argument("name", choices=PLANS)
    parser.add_argument("--until", type=int, help="stop before this step")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder of the checkpoint")
    given = parser.parse_args(arguments)
    plan, kept = PLANS[given.name], given.out / f"{given.name}.kept"
    given.out.mkdir(parents=True, exist_ok=True)
    model = plan.start()
    losses = train(model, plan.draw, plan.recipe, loss=plan.loss, until=given.until, resume=kept)
    if not PartialState().is_main_process:
        return
    evaluation = plan.evaluate(model)
    path = given.out / f"{given.name}.safetensors"
    command = f"python -m course_lib.studies.train {given.name}"
    checkpoints.save(path, model, recipe=plan.recipe, command=command, losses=losses, evaluation=evaluation)
    if len(losses) == plan.recipe.steps:
        kept.unlink(missing_ok=True)
    processes = PartialState().num_processes
    print(
        f"{path}: last loss {losses[-1]:.3f}, processes: {processes}",
        *(f"{k} {v:.4f}" for k, v in evaluation.items()),
        sep="\n",
    )


if __name__ == "__main__":
    main()
