"""One pass of a packed sequence through a transformer, with actions on the way.

Residual-stream actions are module hooks on the layers. Attention goes through the interface that the
architectures of transformers have in common (`AttentionInterface`), so that no model code is repeated here:
it is handed the queries, keys and values of a layer and computes what each row of the sequence sees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from course_lib.lm.packing import Blocks

ATTENTION = "packed_prompts"


class Pass:
    """One pass of a packed sequence, with actions on the way: each takes an activation and returns it."""

    def __init__(self, model: PreTrainedModel, blocks: Callable[[int], list[Blocks]]) -> None:
        self.model = model
        self.blocks = blocks
        self.rows: Callable[[int], int] | None = None  # how many rows enter a layer, if not all
        self.residual: dict[int, list[Callable]] = defaultdict(list)  # (T, d) -> (T', d)
        self.heads: dict[int, list[Callable]] = defaultdict(list)  # (T, n_heads, head_dim) -> the same
        self.attention: dict[int, list[Callable]] = defaultdict(list)  # (query, key, scaling, window)
        self.readouts: dict[int, list[tuple[Callable, list[int]]]] = defaultdict(list)  # in place of softmax
        self.factors: dict[int, list[tuple[torch.Tensor, list[int]]]] = defaultdict(
            list
        )  # (T, T), their logs
        self.attended: set[int] = set()

    def logits(self, tokens: np.ndarray, depth: np.ndarray, keep: Sequence[int]) -> torch.Tensor:
        """(len(keep), vocab) after the rows `keep`, from (T,) token ids and their (T,) positions."""
        device = self.model.device
        with _packed_attention(self.model), ExitStack() as hooks:
            for i, layer in enumerate(layers_of(self.model)):
                if self.rows is not None:
                    cut = self._cut(len(tokens), self.rows(i))
                    hooks.callback(layer.register_forward_pre_hook(cut, with_kwargs=True).remove)
                if self.residual[i]:
                    hooks.callback(layer.register_forward_hook(self._after(i)).remove)
            out = self.model(
                input_ids=torch.as_tensor(tokens, device=device)[None],
                position_ids=torch.as_tensor(depth, device=device)[None],
                use_cache=False,
                logits_to_keep=torch.as_tensor(np.asarray(keep), device=device),
                packed=self,
            )
        if len(self.attended) < self.model.config.num_hidden_layers:
            raise ValueError(
                f"{type(self.model).__name__} does not attend through transformers' AttentionInterface"
            )
        return out.logits[0]

    def _after(self, layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            hidden = (output if isinstance(output, torch.Tensor) else output[0])[0]  # (T, d)
            for action in self.residual[layer]:
                hidden = action(hidden)
            return hidden[None] if isinstance(output, torch.Tensor) else (hidden[None], *output[1:])

        return hook

    @staticmethod
    def _cut(total: int, rows: int) -> Callable:
        """A hook that leaves a layer's inputs their first rows."""

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(cut, value))
            is_rows = isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == total
            return value[:, :rows] if is_rows else value

        return lambda module, args, kwargs: (cut(args), {name: cut(value) for name, value in kwargs.items()})

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """(T, n_heads, head_dim) from a query of this shape, and key and value (T, kv, head_dim)."""
        self.attended.add(layer)
        for action in self.attention[layer]:
            action(query, key, scaling, window)
        out = torch.empty_like(query)
        grouped = query.unflatten(1, (key.shape[1], -1))  # (T, kv, group, head_dim)
        for blocks in self.blocks(layer):
            mask = blocks.mask if window is None else blocks.mask & (blocks.distance < window)
            asked = grouped[blocks.queries].permute(0, 2, 3, 1, 4)  # (B, kv, group, Q, head_dim)
            keys, values = (x[blocks.keys].transpose(1, 2) for x in (key, value))  # (B, kv, K, head_dim)
            mask = self._weighed(layer, blocks, mask, query.shape[1])
            mixed = self._mix(layer, asked, keys, values, mask, scaling).permute(0, 3, 1, 2, 4)
            mixed = mixed.reshape(-1, *query.shape[1:])  # (B·Q, n_heads, head_dim)
            rows = blocks.queries.flatten()
            if len(blocks.slots) < len(rows):  # without the padding
                rows, mixed = rows[blocks.slots], mixed[blocks.slots]
            out[rows] = mixed
        for action in self.heads[layer]:
            out = action(out)
        return out

    def _weighed(self, layer: int, blocks: Blocks, mask: torch.Tensor, n_heads: int) -> torch.Tensor:
        """The mask (B, 1, Q, K); with factors, what is added to each head's scores, (B, n_heads, Q, K)."""
        if not self.factors[layer]:
            return mask
        added = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
        added = added.repeat(1, n_heads, 1, 1)
        for log_factors, heads in self.factors[layer]:
            added[:, heads] += log_factors[blocks.queries[:, :, None], blocks.keys[:, None, :]][:, None]
        return added

    def _mix(
        self,
        layer: int,
        asked: torch.Tensor,  # (B, kv, group, Q, head_dim)
        keys: torch.Tensor,  # (B, kv, K, head_dim)
        values: torch.Tensor,
        mask: torch.Tensor,  # (B, 1, Q, K), or (B, n_heads, Q, K) to be added to the scores
        scaling: float,
    ) -> torch.Tensor:
        """The values that each query reads, in the shape of the queries."""
        shape = asked.shape
        queries = asked.flatten(2, 3)  # the heads of a group share their keys: one problem of group·Q queries
        if mask.shape[1] == 1:
            mask = mask.repeat(1, 1, shape[2], 1)
        else:
            mask = mask.to(asked.dtype).unflatten(1, shape[1:3]).flatten(2, 3)  # (B, kv, group·Q, K)
        mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        mixed = mixed.view(shape)
        for readout, heads in self.readouts[layer]:
            mask = mask | ~mask.any(-1, keepdim=True)  # padding may see anything: its results are not used
            other, _ = readout(queries * (scaling * shape[-1] ** 0.5), keys, values, mask)
            if other.shape != queries.shape:
                raise ValueError(
                    f"readout: got outputs {tuple(other.shape)}, expected {tuple(queries.shape)}"
                )
            chosen = torch.zeros(shape[1] * shape[2], dtype=torch.bool, device=mixed.device)
            chosen[heads] = True
            mixed = torch.where(chosen.view(shape[1], shape[2], 1, 1), other.to(mixed).view(shape), mixed)
        return mixed


def _attention(
    module: nn.Module,
    query: torch.Tensor,  # (1, n_heads, T, head_dim)
    key: torch.Tensor,  # (1, kv, T, head_dim), kv heads that groups of query heads share
    value: torch.Tensor,
    attention_mask: None,
    *,
    packed: Pass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer while a packed sequence passes through."""
    if softcap is not None or s_aux is not None:
        raise ValueError("attention with softcapping or learned sinks is not supported")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, n_heads or kv, head_dim)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return packed.attend(module.layer_idx, query, key, value, scaling, sliding_window)[None], None


AttentionInterface.register(ATTENTION, _attention)


@contextmanager
def _packed_attention(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a transformer's layers, whatever the architecture calls it."""
    n_layers = model.config.num_hidden_layers
    lists = (m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers)
    return next(lists)
