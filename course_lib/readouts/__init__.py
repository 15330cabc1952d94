"""Readouts: ways to average values with weights that compare a query with keys."""

from course_lib.readouts.averages import (
    Readout,
    distance_softmax,
    k_nearest,
    onto_hull,
    onto_simplex,
    softmax,
    sparsemax,
    uniform,
    unit_norm,
)

__all__ = [
    "Readout",
    "distance_softmax",
    "k_nearest",
    "onto_hull",
    "onto_simplex",
    "softmax",
    "sparsemax",
    "uniform",
    "unit_norm",
]
