"""Activation checkpointing: what a block computed is thrown away after forward and computed again for backward.

none        everything is kept
selective   results of matrix products and of attention are kept, the cheap rest is computed again
full        only the inputs of the blocks are kept: least memory, about a third more arithmetic
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from headrace.train.config import Recompute

_aten = torch.ops.aten
_DEAR = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.linear.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def recompute(blocks: Iterable[nn.Module], mode: Recompute) -> None:
    """Let blocks forget and compute again, in place. Names in the state dict stay; random draws are those of before."""
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks:
        block.forward = _forgetful(block.forward, options)


def _forgetful(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def forget(*inputs: Any, **named: Any) -> Any:
        return checkpoint(forward, *inputs, **options, **named)

    return forget


def _policy(_context: Any, operator: Any, *_inputs: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE
