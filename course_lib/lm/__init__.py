"""Pretrained language models: load one, run prompts through it, read and write what happens inside."""

from course_lib.lm.actions import Attend, Output, Read, Weigh, Write
from course_lib.lm.embeddings import embed
from course_lib.lm.forward import forward, sweep_layers
from course_lib.lm.gradients import answer_loss, copy_keys_and_values, layer_losses, untrained
from course_lib.lm.head_scores import (
    HeadScores,
    copying,
    head_scores,
    prefix_matching,
    previous_token,
    repeated_tokens,
)
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
from course_lib.lm.model import LanguageModel, fingerprint, load
from course_lib.lm.sampling import sample_texts

__all__ = [
    "Attend",
    "Head",
    "HeadScores",
    "LanguageModel",
    "Output",
    "Read",
    "Weigh",
    "Write",
    "ablation",
    "answer_loss",
    "copy_keys_and_values",
    "copying",
    "embed",
    "fingerprint",
    "forward",
    "head_means",
    "head_scores",
    "layer_losses",
    "load",
    "output_projections",
    "prefix_matching",
    "previous_token",
    "queries_and_keys",
    "random_heads",
    "repeated_tokens",
    "sample_texts",
    "strongest_heads",
    "sweep_layers",
    "token_losses",
    "unembedding",
    "untrained",
    "values",
]
