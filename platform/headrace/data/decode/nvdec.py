"""Decoding on the GPU's video engine (NVDEC) through torchcodec, for hosts whose CPU cannot feed their GPU.

Pictures are decoded, cut and scaled on the GPU and come back small. Everything but the device is as in `torchcodec`.
What the engine does not decode, which differs from GPU to GPU, is UnsupportedCodec: torchcodec would decode it on the
CPU. Colours are converted by NVIDIA's NPP and differ a little from those of a decode on the CPU.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.torchcodec import TorchCodecDecoder
from headrace.data.encode import encode_video
from headrace.data.failures import SampleError, UnsupportedCodec
from headrace.errors import UserError


class NvdecDecoder(TorchCodecDecoder):
    """Decodes videos that have an index on a GPU. One instance serves one thread.

    Args:
        limits: what is accepted.
        device: of torch, "cuda" or "cuda:1". On "cpu" the same code runs without a GPU, for tests.

    Raises:
        UserError: there is no such device, torchcodec cannot use it, or torchcodec is not there.
    """

    name = "nvdec"

    def __init__(self, limits: Limits | None = None, device: str = "cuda") -> None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "the decoder nvdec needs an NVIDIA GPU and a CUDA build of torch, and no CUDA device is visible to "
                "this process: choose --data.decoder auto"
            )
        super().__init__(limits, device)
        self._try_out()

    def _try_out(self) -> None:
        """Decode a picture, so that a GPU that cannot be used is found out before anything starts.

        Else every sample would silently be decoded on the CPU.
        """
        clip = encode_video(np.zeros((1, 256, 256, 3), np.uint8), fps=25)
        try:
            self.decode(io.BytesIO(clip), np.zeros(1), np.empty((1, 8, 8, 3), np.uint8))
        except (RuntimeError, SampleError) as error:
            raise UserError(
                f"the decoder nvdec does not work with torchcodec {self._torchcodec.__version__} on {self._device}: "
                f"{error}; it needs a CUDA build of torchcodec, NVIDIA's NPP and libnvcuvid (in a container, "
                f"NVIDIA_DRIVER_CAPABILITIES=compute,video,utility); install them, or choose --data.decoder auto"
            ) from error

    def _check_stream(self, decoder: Any, index: VideoIndex) -> None:
        super()._check_stream(decoder, index)
        if decoder.cpu_fallback:
            raise UnsupportedCodec(f"the GPU does not decode this video ({decoder.cpu_fallback})")
