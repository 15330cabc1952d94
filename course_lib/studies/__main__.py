"""Measures the long tables of the book, for any causal language model.

`python -m course_lib.studies NAME --model MODEL` writes `results/NAME-MODEL.json`. A run that was interrupted
goes on where it stopped. `accelerate launch -m course_lib.studies …` shares it out over several GPUs,
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node=2 -m course_lib.studies …` over processes without one.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from course_lib import lm
from course_lib.lm.weights import PACKAGES
from course_lib.studies import (
    choosing_demonstrations,
    dual_of_fine_tuning,
    induction_heads,
    locate_and_project,
    ordering_demonstrations,
    task_vectors,
)
from course_lib.studies.study import Study, run

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (
        dual_of_fine_tuning,
        task_vectors,
        induction_heads,
        locate_and_project,
        choosing_demonstrations,
        ordering_demonstrations,
    )
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the study named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies", description=__doc__)
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument(
        "--model", default="smollm2-135m", help=f"{', '.join(PACKAGES)}, a folder, or a hub id"
    )
    parser.add_argument("--device", help="of the model; by default a GPU of its own, if there is one")
    parser.add_argument("--dtype", default="float32", help="of the weights, as torch names it")
    parser.add_argument("--revision", help="of a model of the hub: a branch, a tag or a commit")
    parser.add_argument("--accept-licence", action="store_true", help="you accept the terms of the weights")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    package = PACKAGES.get(given.model)
    if package and package.terms and not given.accept_licence:
        print(
            f"{given.model} is provided under and subject to the {package.licence} found at {package.terms}"
        )
        parser.exit(2, "Read them and, if you accept them, add --accept-licence.\n")
    model = lm.load(
        given.model,
        device=given.device or Accelerator().device,
        dtype=getattr(torch, given.dtype, given.dtype),
        revision=given.revision,
        accept_licence=given.accept_licence,
    )
    path = run(STUDIES[given.name], model, _command(given), given.out)
    if Accelerator().is_main_process:
        print(f"wrote {path}")


def _command(given: argparse.Namespace) -> str:
    """What to type to measure the same again."""
    words = ["python", "-m", "course_lib.studies", given.name, "--model", given.model]
    if given.dtype != "float32":
        words += ["--dtype", given.dtype]
    if given.revision:
        words += ["--revision", given.revision]
    return shlex.join([*words, *(["--accept-licence"] if given.accept_licence else [])])


if __name__ == "__main__":
    main()
