"""Which kernels compute attention, and how often torch.compile compiles."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Literal

from torch._dynamo.callback import CallbackArgs, CallbackTrigger, callback_handler
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel

from headrace.errors import UserError
from headrace.train.config import AttentionKernel

_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_PACKAGES = {"FA3": "flash_attn_interface", "FA4": "flash_attn"}


@contextlib.contextmanager
def attention_kernels(order: Sequence[AttentionKernel], flash: Literal["FA2", "FA3", "FA4"]) -> Iterator[None]:
    """Let scaled_dot_product_attention take the first of these kernels that can do what is asked.

    Raises:
        UserError: the asked FlashAttention is not installed.
    """
    if flash != "FA2":
        if importlib.util.find_spec(_PACKAGES[flash]) is None:
            raise UserError(
                f"--train.flash {flash} wants the package {_PACKAGES[flash]}, which is not installed here: install it "
                f"or leave the option out"
            )
        activate_flash_attention_impl(flash)
    with sdpa_kernel([_BACKENDS[name] for name in order], set_priority=True):
        yield


class CompileCount:
    """Counts compilations while it is open: of forward graphs, each of which brings its backward.

    Attributes:
        total: so many were compiled in all.
    """

    def __init__(self) -> None:
        self.total = self._new = 0

    def __enter__(self) -> CompileCount:
        callback_handler.register_start_callback(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        callback_handler.remove_start_callback(self._see)

    def take(self) -> int:
        """Return how many there were since this was last asked."""
        new, self._new = self._new, 0
        return new

    def _see(self, what: CallbackArgs) -> None:
        if what.callback_trigger is CallbackTrigger.DYNAMO:
            self._new += 1
            self.total += 1
