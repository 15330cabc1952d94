"""Plain forwards of transformers, and hand-written hooks, that the engine is held against."""

import itertools

import torch

ATTENTIONS, PROJECTIONS = ("self_attn", "attn", "attention"), ("o_proj", "c_proj", "dense")
EXACT = {"atol": 2e-4, "rtol": 0}
PROMPTS = [[7, 1, 2, 3], [7, 1, 2, 4, 5, 6, 9], [7, 1], [7, 1, 2, 3], [8], [8, 9, 3, 4, 5, 6, 7, 1, 2, 3, 4]]
PROMPTS += [[7, 1, 2, *order, 9] for order in itertools.permutations([30, 31, 32])]


@torch.no_grad()
def plain(model, prompt, **kwargs):
    ids = torch.tensor([prompt], device=model.device)
    return model.model(input_ids=ids, use_cache=False, **kwargs)


def last_logits(model, prompts):
    return torch.stack([plain(model, prompt).logits[0, -1] for prompt in prompts])


class Hooked:
    """The model with a hook on one layer's residual stream or on the input of its attention's projection."""

    def __init__(self, model, layer, change, head=None):
        layers = getattr(model.model.base_model, "layers", None) or model.model.base_model.h
        self.module, self.change, self.head = layers[layer], change, head
        if head is not None:
            attention = next(getattr(self.module, n) for n in ATTENTIONS if hasattr(self.module, n))
            self.module = next(getattr(attention, n) for n in PROJECTIONS if hasattr(attention, n))
            self.width = model.model.config.to_dict().get("head_dim") or (
                model.model.config.hidden_size // model.n_heads
            )

    def __enter__(self):
        if self.head is None:
            self.handle = self.module.register_forward_hook(self.residual)
        else:
            self.handle = self.module.register_forward_pre_hook(self.heads)

    def __exit__(self, *error):
        self.handle.remove()

    def residual(self, module, args, output):
        hidden = (output if isinstance(output, torch.Tensor) else output[0]).clone()
        self.change(hidden[0])
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    def heads(self, module, args):
        mixed = args[0].clone()
        self.change(mixed[0, :, self.head * self.width : (self.head + 1) * self.width])
        return (mixed,)
