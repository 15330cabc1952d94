"""The global state of a process that the library must leave as it is."""

import os
import random
import warnings

import numpy as np
import torch


def global_state() -> dict:
    """What a call could change beyond what it returns, by name."""
    generator = np.random.get_state()
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": (generator[0], generator[1].tolist(), *generator[2:]),
        "python generator": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }
