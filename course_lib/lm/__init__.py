"""Pretrained language models: load one, run prompts through it, read and write what happens inside."""

from course_lib.lm.actions import Attend, Output, Read, Weigh, Write
from course_lib.lm.forward import forward, sweep_layers
from course_lib.lm.heads import (
    Head,
    ablation,
    head_means,
    output_projections,
    random_heads,
    strongest_heads,
    unembedding,
)
from course_lib.lm.measures import queries_and_keys, token_losses, values
from course_lib.lm.model import LanguageModel, load

__all__ = [
    "Attend",
    "Head",
    "LanguageModel",
    "Output",
    "Read",
    "Weigh",
    "Write",
    "ablation",
    "forward",
    "head_means",
    "load",
    "output_projections",
    "queries_and_keys",
    "random_heads",
    "strongest_heads",
    "sweep_layers",
    "token_losses",
    "unembedding",
    "values",
]
