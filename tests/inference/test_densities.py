"""Densities in context: prompts, names, foreign points, and readers whose answers are known."""

import pytest
import torch

from course_lib.inference import densities
from course_lib.synthetic import distributions
from course_lib.synthetic.distributions import FAMILIES

DRAWN = distributions.draw_densities(40, torch.Generator().manual_seed(0))
PROMPTS = densities.draw_prompts(DRAWN, 8, seed=1)


class Knows(torch.nn.Module):
    """A model that gives logits of your choice behind the last token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, tokens):
        self.tokens = tokens
        return self.logits.expand(*tokens.shape, -1)


def test_prompts_end_with_the_question():
    tokens = PROMPTS.tokens()
    assert tokens.shape == (40, 17)
    assert torch.equal(tokens[:, -1], distributions.x_token(PROMPTS.x0))
    assert torch.equal(tokens[:, :-1], distributions.points(PROMPTS.x, PROMPTS.log_p))
    names = densities.give_names(PROMPTS, "random", seed=0)
    named = PROMPTS.tokens(names)
    assert torch.equal(named[:, 1:24:3], distributions.family_token(names[:, :-1]))
    asked = PROMPTS.tokens(names, name_of_x0=True)
    assert torch.equal(asked[:, :-1], named)
    assert torch.equal(asked[:, -1], distributions.family_token(names[:, -1]))


def test_first_keeps_the_question():
    three = PROMPTS.first(3)
    assert three.x.shape == three.log_p.shape == (40, 3)
    assert torch.equal(three.x0, PROMPTS.x0)
    assert torch.equal(PROMPTS.tokens()[:, :6], three.tokens()[:, :6])


def test_the_truth_is_the_density_at_x0():
    expected = torch.stack([DRAWN[i].log_density(PROMPTS.x0[i]) for i in range(40)])
    torch.testing.assert_close(PROMPTS.truth, expected.clamp(min=-11.85))
    moved = densities.shifted(PROMPTS, -1.5)
    torch.testing.assert_close(moved.log_p, PROMPTS.log_p - 1.5)
    torch.testing.assert_close(moved.truth, (expected - 1.5).clamp(min=-11.85))


def test_a_question_can_lie_elsewhere():
    normals = distributions.from_quantiles(
        torch.zeros(30, dtype=torch.long), torch.full((30,), 0.5), torch.full((30,), 0.5)
    )
    prompts = densities.draw_prompts(normals, 4, seed=0, spread=2.0, asked=(3.0, 4.0))
    mean, std = normals.mean_std()
    assert ((prompts.x - mean[:, None]).abs() <= 2 * std[:, None]).all()
    assert ((prompts.x0 - mean).abs() >= 3 * std).all()


def test_answers_are_read_behind_x0_or_behind_its_name():
    logits = torch.full((distributions.VOCAB,), -50.0)
    logits[distributions.XS + 10] = 0.0  # a bin
    logits[-2] = 0.0  # the exponential family
    logits[:5] = 9.0  # x tokens are of no account
    model = Knows(logits)
    answer = densities.model_answers(model, PROMPTS)
    assert model.tokens.shape == (40, 17)
    torch.testing.assert_close(answer.log_p, distributions.centres()[10].expand(40))
    assert answer.family.argmax(-1).tolist() == [3] * 40
    torch.testing.assert_close(answer.family.sum(-1), torch.ones(40))
    densities.model_answers(model, PROMPTS, densities.give_names(PROMPTS, "true", 0))
    assert model.tokens.shape == (40, 3 * 8 + 2)
    assert torch.equal(densities.right(answer, PROMPTS), (DRAWN.family == 3).float())
    torch.testing.assert_close(
        densities.error(answer, PROMPTS), (PROMPTS.truth - distributions.centres()[10]).abs()
    )


def test_copying_takes_the_nearest_point():
    prompts = densities.Prompts(
        DRAWN[:1],
        torch.tensor([[3, 10, 20]]),
        torch.tensor([[-1.0, -2.0, -3.0]]),
        torch.tensor([12]),
        torch.zeros(1),
    )
    assert densities.copied(prompts).item() == -2.0


def test_locating_finds_a_density_of_the_grid():
    on_grid, _ = distributions.grid(40)
    some = on_grid[torch.tensor([3, 100, 420, 460, 700])]
    x, _ = distributions.draw_points(some, 9, torch.Generator().manual_seed(0), spread=4.0)
    log_p = some[:, None].log_density(x)
    prompts = densities.Prompts(some, x, log_p, x[:, 0], log_p[:, 0])
    torch.testing.assert_close(densities.located(prompts, cells=40), prompts.truth, atol=0.02, rtol=0)
    # what does not fit is answered with a density that exists
    moved = densities.shifted(prompts, -3.0)
    curves = on_grid.log_density(moved.x0[:, None]).clamp(min=distributions.FLOOR)
    answer = densities.located(moved, cells=40)
    assert (curves - answer[:, None]).abs().amin(1).max() < 1e-4
    assert (answer - moved.truth).abs().mean() > 0.3
    free = densities.located(moved, free=True, cells=40)
    torch.testing.assert_close(free, moved.log_p[:, 0], atol=0.02, rtol=0)


def test_distorted_prompts_have_distorted_truths():
    half = densities.scaled(PROMPTS, 0.5)
    torch.testing.assert_close(half.log_p, PROMPTS.log_p / 2)
    torch.testing.assert_close(half.truth, (PROMPTS.truth / 2).clamp(min=-11.85))
    other = densities.laplace(PROMPTS, seed=0)
    mean, std = DRAWN.mean_std()
    expected = -(PROMPTS.x0 - mean).abs() * 2**0.5 / std - (std * 2**0.5).log()
    torch.testing.assert_close(other.truth, expected.clamp(min=-11.85), atol=1e-4, rtol=1e-4)
    assert torch.equal(other.x, PROMPTS.x)


def test_bayes_is_asked_the_same_questions():
    bayes = distributions.Bayes(4.0, cells=24)
    names, shares = densities.give_names(PROMPTS, "half", seed=0), (0.0, 0.5, 1.0)
    answer = densities.bayes_answers(bayes, PROMPTS, names, shares)
    log_w = bayes.log_weights(PROMPTS.x, PROMPTS.log_p, PROMPTS.x0)
    assert bayes.family(log_w.softmax(-1)).amax(1).min() < 0.9  # names have something to say

    def told(given):
        said, exchanged = densities.naming(given, shares)
        return (log_w.double().exp() * said.double().exp()[:, bayes.densities.family]), exchanged

    before, exchanged = told(names[:, :-1])
    family = bayes.family((before / before.sum(1, keepdim=True)).float())
    torch.testing.assert_close(answer.family, densities.name(family, exchanged), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(answer.family.sum(1), torch.ones(40))
    after = told(names)[0]
    after = (after / after.sum(1, keepdim=True)).float()
    expected = bayes.density(after, PROMPTS.x0) @ distributions.centres()
    torch.testing.assert_close(answer.log_p, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("true", 1, 1), ("half", 0.5, 0.7), ("random", 0.1, 0.3), ("wrong", 0, 0)]
)
def test_names_are_as_often_true_as_they_should(kind, low, high):
    names = densities.give_names(PROMPTS, kind, seed=3)
    assert names.shape == (40, 9)
    assert names.min() >= 0
    assert names.max() < 5
    assert low <= (names == DRAWN.family[:, None]).float().mean() <= high
    if kind == "wrong":
        assert (names == names[:, :1]).all()
        assert names[:, 0].unique().numel() == 5


def test_an_unknown_kind_of_names():
    with pytest.raises(ValueError, match="kind='false': expected 'true', 'half', 'random' or 'wrong'"):
        densities.give_names(PROMPTS, "false", seed=0)


def test_naming_by_hand():
    names = torch.tensor([[2, 2, 0]])
    log_p, expected = densities.naming(names, (0.0, 0.5))
    by_share = {0.0: 0.0, 0.5: (0.5 + 0.1) ** 2 * 0.1}  # for family 2: 0.5 · [it is] + 0.5 / 5
    assert log_p[0, 2].exp().item() == pytest.approx(sum(by_share.values()) / 2, rel=1e-4)
    assert expected[0, 2].item() == pytest.approx(0.5)
    certain, share = densities.naming(torch.tensor([[1, 1]]), (0.0, 1.0))
    assert certain[0].argmax() == 1
    assert certain[0, 1].exp().item() == pytest.approx((1 + 1 / 25) / 2, rel=1e-4)
    assert share[0, 1].item() == pytest.approx((1 / 25) / (1 + 1 / 25), rel=1e-3)
    assert share[0, 0].item() == pytest.approx(1, rel=1e-3)


def test_the_next_name():
    family = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]])
    assert densities.name(family, 0.0).tolist() == family.tolist()
    torch.testing.assert_close(densities.name(family, 1.0), torch.full((1, 5), 0.2))
    by_hand = torch.tensor([[0.5 * 1 + 0.05, 0.5 * 0.5 + 0.05, 0.05, 0.05, 0.05]])
    shares = torch.tensor([[0.0, 0.5, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(densities.name(family, shares), by_hand)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_share_of_points_is_foreign(share):
    mixed = densities.contaminated(PROMPTS, share, seed=0)
    same = (mixed.x == PROMPTS.x) & (mixed.log_p == PROMPTS.log_p)
    assert (same.sum(1) == 8 - round(8 * share)).all()
    assert torch.equal(mixed.x0, PROMPTS.x0)
    torch.testing.assert_close(mixed.truth, PROMPTS.truth)


def test_foreign_points_do_less_harm_to_who_expects_them():
    clean = densities.draw_prompts(DRAWN, 12, seed=1)
    mixed = densities.contaminated(clean, 0.25, seed=0)
    strict, tolerant = (distributions.Bayes(4.0, outliers=share, cells=120) for share in (0.0, 0.2))
    harmed, spared = (
        densities.error(densities.bayes_answers(reader, mixed), mixed).mean() for reader in (strict, tolerant)
    )
    assert spared < 0.12
    assert harmed > 1.5 * spared
    assert densities.error(densities.bayes_answers(strict, clean), clean).mean() < 0.06


def test_evaluation_is_zero_for_exact_bayes(monkeypatch):
    bayes, seen = distributions.Bayes(4.0), {}
    monkeypatch.setattr(densities, "predict", lambda model, tokens: seen[tokens.shape[1]])
    real = densities.Prompts.tokens

    def tokens(prompts):
        posterior = bayes.log_weights(prompts.x, prompts.log_p, prompts.x0).softmax(-1)
        out = real(prompts)
        exact = bayes.density(posterior, prompts.x0), densities.name(bayes.family(posterior), 0.5)
        seen[out.shape[1]] = [(p + 1e-38).log() for p in exact]
        return out

    monkeypatch.setattr(densities.Prompts, "tokens", tokens)
    found = densities.evaluate(None, spread=4.0, noisy=True, n=6)
    assert len(found) == 6
    assert max(map(abs, found.values())) < 1e-4
    assert max(densities.evaluate(None, spread=4.0, noisy=False, n=6).values()) > 0.1


def test_the_families_of_the_arms():
    assert set(densities.PLANS) == {"densities", "densities-noisy", "densities-2sigma"}
    assert len({plan.recipe for plan in densities.PLANS.values()}) == 1  # equal training
    assert len(FAMILIES) == 5
