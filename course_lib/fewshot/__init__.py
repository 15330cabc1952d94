"""Few-shot prompts: formats, cases, classification tasks, scoring, and the layout of a prompt."""

from course_lib.fewshot.cases import Case, draw, orders, right_labels, shown_labels, shuffle_answers
from course_lib.fewshot.classification import TWO_LABELS, Classification, short_texts
from course_lib.fewshot.formats import Format, Pair
from course_lib.fewshot.label_attention import LabelAttention, attention_by_label, label_attention
from course_lib.fewshot.layout import CUTS, LaidOut, Layout, label_tokens, lay_out, layout, links
from course_lib.fewshot.scoring import (
    accuracy,
    answered,
    calibrated_accuracy,
    contexts_of,
    label_log_probs,
    label_measures,
    label_scores,
    prompts_and_answers,
    score,
    tilt,
    top,
    unscored,
    without_tilt,
)

__all__ = [
    "CUTS",
    "TWO_LABELS",
    "Case",
    "Classification",
    "Format",
    "LabelAttention",
    "LaidOut",
    "Layout",
    "Pair",
    "accuracy",
    "answered",
    "attention_by_label",
    "calibrated_accuracy",
    "contexts_of",
    "draw",
    "label_attention",
    "label_log_probs",
    "label_measures",
    "label_scores",
    "label_tokens",
    "lay_out",
    "layout",
    "links",
    "orders",
    "prompts_and_answers",
    "right_labels",
    "score",
    "short_texts",
    "shown_labels",
    "shuffle_answers",
    "tilt",
    "top",
    "unscored",
    "without_tilt",
]
