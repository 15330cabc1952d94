"""Pretrained language models: load one, run prompts through it, read and write what happens inside."""

from course_lib.lm.actions import Attend, Output, Read, Write
from course_lib.lm.forward import forward, sweep_layers
from course_lib.lm.measures import queries_and_keys, token_losses
from course_lib.lm.model import LanguageModel, load

__all__ = [
    "Attend",
    "LanguageModel",
    "Output",
    "Read",
    "Write",
    "forward",
    "load",
    "queries_and_keys",
    "sweep_layers",
    "token_losses",
]
