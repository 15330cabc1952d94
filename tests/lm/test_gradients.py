"""Copies whose keys and values can be trained, losses with gradients, untrained models."""

import pytest
import torch

from course_lib import lm
from course_lib.fewshot import Format

FORMAT = Format("{x}={y}", ";")


def early_exit(model, prompt, answer, layer):
    """−log p of the answer as if the model ended after a layer, by transformers' own hidden states."""
    tokens = torch.tensor([[*prompt, *answer]])
    states = []
    hook = model.model.base_model.layers[layer].register_forward_hook(lambda m, a, out: states.append(out))
    model.model(input_ids=tokens, use_cache=False)
    hook.remove()
    logits = model.model.get_output_embeddings()(model.model.base_model.norm(states[0]))[0]
    at = slice(len(prompt) - 1, -1)
    return torch.nn.functional.cross_entropy(logits[at], tokens[0, len(prompt) :])


def test_a_copy_shares_all_but_keys_and_values(llama):
    other, weights = lm.copy_keys_and_values(llama)
    mine, theirs = dict(llama.model.named_parameters()), dict(other.model.named_parameters())
    assert len(weights) == 2 * llama.n_layers
    for name, parameter in mine.items():
        assert (theirs[name] is parameter) == (name not in weights), name
        assert torch.equal(theirs[name], parameter)
    assert all(theirs[name] is weight for name, weight in weights.items())


def test_models_without_separate_keys_are_refused(tmp_path):
    import families

    model = lm.load(str(families.make("gpt2", tmp_path)), device="cpu")
    with pytest.raises(ValueError, match="k_proj and v_proj in every layer, found 0"):
        lm.copy_keys_and_values(model)


def test_the_loss_is_that_of_the_answer(llama):
    prompt, answer = FORMAT.tokens(llama, [], "ab", "yes")
    assert len(answer) == 3
    logits = llama.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    log_p = logits.log_softmax(-1)
    by_hand = -sum(log_p[len(prompt) - 1 + i, token] for i, token in enumerate(answer)) / 3
    torch.testing.assert_close(lm.answer_loss(llama, prompt, answer), by_hand)


def test_each_layer_learns_from_what_it_computes_itself(separate):
    prompt, answer = FORMAT.tokens(separate, [], "ab", "yes")
    other, weights = lm.copy_keys_and_values(separate)
    loss = lm.layer_losses(other, prompt, answer)
    each = [early_exit(other, prompt, answer, layer) for layer in range(other.n_layers)]
    torch.testing.assert_close(loss, sum(each))
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    for layer, own in enumerate(each):
        names = [name for name in weights if f"layers.{layer}." in name]
        expected = torch.autograd.grad(own, [weights[name] for name in names], retain_graph=True)
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_an_untrained_model_has_the_shape_and_other_weights(llama):
    state = torch.random.get_rng_state()
    one, same, two = (lm.untrained(llama, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.model.config == llama.model.config
    assert lm.fingerprint(one) == lm.fingerprint(same)
    assert len({lm.fingerprint(one), lm.fingerprint(two), lm.fingerprint(llama)}) == 3
    assert not one.model.training
