"""Muon moves as torch's own does but for the precision, and its steps are nearly orthogonal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.scratch.muon import Muon, orthogonal

DEFAULTS = (3.4445, -4.7750, 2.0315)


def moved(kind, shape, **settings):
    """A matrix after four steps along gradients drawn at random."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(shape, generator=draw))
    optimizer = kind([matrix], lr=0.1, weight_decay=0.3, **settings)
    for _ in range(4):
        matrix.grad = torch.randn(shape, generator=draw)
        optimizer.step()
    return matrix.detach(), optimizer.state_dict()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_moves_as_torchs_own_does(shape, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # which it computes in
    (own, kept), (torchs, torchs_kept) = (
        moved(Muon, shape),
        moved(torch.optim.Muon, shape, adjust_lr_fn="match_rms_adamw"),
    )
    torch.testing.assert_close(own, torchs)
    torch.testing.assert_close(kept["state"], torchs_kept["state"])


def test_what_has_no_gradient_stays_and_a_closure_is_asked():
    one, other = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.eye(2))
    optimizer = Muon([one, other], lr=0.1, weight_decay=0.0)

    def closure():
        one.sum().backward()
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert torch.equal(other.detach(), torch.eye(2))
    assert not torch.equal(one.detach(), torch.eye(2))


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_steps_are_nearly_orthogonal(rows, columns, scale, seed):
    u, _, vt = torch.linalg.svd(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), full_matrices=False
    )
    known = u @ vt
    values = torch.linspace(0.5, 1, len(vt))  # far from zero, where five steps are too few
    found = orthogonal((u * values * scale) @ vt, DEFAULTS, 5)
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.35
    assert torch.linalg.svdvals(found - known).max() < 0.35
    assert found.dtype == torch.float32


def test_zeros_stay_zero():
    assert torch.equal(orthogonal(torch.zeros(3, 2), DEFAULTS, 5), torch.zeros(3, 2))
