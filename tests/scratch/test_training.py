"""The training loop: its steps are those of the recipe, interrupted or not, on one process or on two."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from course_lib.scratch import checkpoints, training
from course_lib.scratch.training import Recipe, next_token, optimizers, train
from course_lib.scratch.transformer import Config, Transformer
from course_lib.studies import train as command

CONFIG = Config(vocab=5, length=8, layers=1, heads=2, d=16, rotary=True)
RECIPE = Recipe(steps=12, batch=4, warmup=3)


def draw(n, generator):
    """Documents that count upwards from a random token."""
    return (torch.randint(5, (n, 1), generator=generator) + torch.arange(8)) % 5


def new():
    torch.manual_seed(0)
    return Transformer(CONFIG)


def test_a_recipe_warms_up_and_cools_down():
    recipe = Recipe(steps=110, lr=1.0, warmup=10)
    assert [recipe.lr_at(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert recipe.lr_at(60) == pytest.approx(0.05 + 0.95 / 2)
    assert recipe.lr_at(110) == pytest.approx(0.05)


@given(st.integers(1, 500), st.integers(0, 60))
def test_the_learning_rate_is_positive_and_never_above_the_highest(steps, warmup):
    recipe = Recipe(steps=steps, lr=0.3, warmup=warmup)
    assert all(0 < recipe.lr_at(step) <= 0.3 + 1e-12 for step in range(steps))


def test_each_step_has_data_of_its_own():
    first, second = (draw(64, RECIPE.generator(step)) for step in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(64, RECIPE.generator(0)))
    assert not torch.equal(first, draw(64, replace(RECIPE, seed=1).generator(0)))


def test_next_token_is_the_mean_cross_entropy():
    model, tokens = new(), draw(3, torch.Generator().manual_seed(0))
    p = model(tokens).log_softmax(-1)
    by_hand = -torch.stack([p[i, t, tokens[i, t + 1]] for i in range(3) for t in range(7)]).mean()
    torch.testing.assert_close(next_token(model, tokens), by_hand)


def test_every_parameter_has_one_optimizer():
    model = new()
    muon, adam = optimizers(model, RECIPE)
    of = [{id(p) for group in o.param_groups for p in group["params"]} for o in (muon, adam)]
    assert of[0].isdisjoint(of[1])
    assert of[0] | of[1] == {id(p) for p in model.parameters()}
    assert id(model.tokens.weight) in of[1]
    assert id(model.blocks[0].up.weight) in of[0]


def test_training_learns_and_is_the_same_twice():
    first, second = new(), new()
    recipe = replace(RECIPE, steps=60)
    losses = train(first, draw, recipe)
    assert losses == train(second, draw, recipe)
    assert len(losses) == 60
    assert losses[0] == pytest.approx(torch.tensor(5.0).log().item(), abs=0.1)
    assert losses[-1] < 0.2
    assert not first.training


def test_each_is_called_before_the_first_step_and_after_every_one():
    seen = []
    start = new().tokens.weight.clone()
    train(new(), draw, RECIPE, each=lambda step, model: seen.append((step, model.tokens.weight.clone())))
    assert [step for step, _ in seen] == list(range(13))
    assert torch.equal(seen[0][1], start)
    assert not torch.equal(seen[1][1], start)


def test_the_learning_rate_is_that_of_the_step():
    def moved(warmup):
        model, start = new(), new()
        train(model, draw, replace(RECIPE, steps=1, warmup=warmup))
        return max((a - b).abs().max() for a, b in zip(model.parameters(), start.parameters(), strict=True))

    assert moved(100) < 0.05 * moved(1)


def test_a_loss_of_ones_own():
    train(model := new(), draw, RECIPE, loss=lambda model, tokens: model(tokens).square().mean())
    assert model(draw(4, torch.Generator())).abs().max() < new()(draw(4, torch.Generator())).abs().max()


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EVERY", 5)
    whole, begun, resumed = new(), new(), Transformer(CONFIG)
    losses = train(whole, draw, RECIPE)
    assert train(begun, draw, RECIPE, until=7, resume=tmp_path / "kept") == losses[:7]
    calls = []
    again = train(resumed, draw, RECIPE, resume=tmp_path / "kept", each=lambda step, _: calls.append(step))
    assert calls[0] == 6  # the state after five steps was kept
    assert again == losses
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_does_not_go_on_with_another_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EVERY", 5)
    train(new(), draw, RECIPE, resume=tmp_path / "kept")
    with pytest.raises(ValueError, match="kept by a run with another recipe"):
        train(new(), draw, replace(RECIPE, lr=0.5), resume=tmp_path / "kept")


@pytest.mark.parametrize("until", [-1, 13])
def test_until_is_a_step(until):
    with pytest.raises(ValueError, match=f"until={until}: expected a step of the recipe, 0 to 12"):
        train(new(), draw, RECIPE, until=until)


def test_the_batch_divides_among_the_processes(monkeypatch):
    monkeypatch.setattr(training, "Accelerator", lambda: SimpleNamespace(num_processes=3))
    with pytest.raises(ValueError, match="batch=4: expected a multiple of the 3 processes"):
        train(new(), draw, RECIPE)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path):
    name, steps = "concepts-single", 8
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m", "course_lib.studies.train"]
    given_ = [name, f"--until={steps}", "--out"]
    done = subprocess.run(
        [*launch, *given_, tmp_path / "two"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "processes: 2" in done.stdout
    command.main([*given_, str(tmp_path / "one")])
    paths = [tmp_path / folder / f"{name}.safetensors" for folder in ("one", "two")]
    first, second = (torch.tensor(checkpoints.about(path).losses) for path in paths)
    torch.testing.assert_close(first, second, atol=3e-4, rtol=0)
    one, two = map(load_file, paths)
    start = command.PLANS[name].start().state_dict()
    for key in one:
        apart, moved = (one[key] - two[key]).norm(), (one[key] - start[key]).norm()
        assert apart / moved < 0.01, key
