"""Settings of the stream: which samples, which frames of them, at what size, decoded by whom."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from headrace.data.decode.table import check_decoder
from headrace.data.order import Shuffle
from headrace.data.sampling import SamplingConfig
from headrace.errors import UserError


@dataclass(frozen=True)
class PoolSize:
    """Bounds between which the decode pool scales by itself; equal bounds fix it."""

    least: int
    most: int


@dataclass(frozen=True)
class DataConfig:
    """The stream from a source to uint8 micro-batches."""

    source: str = "demo://street"
    """Folder of WebDataset tars, of videos or of images, a zip of images, or one such file; local or s3://.
    demo://street makes small street scenes of its own."""

    height: int = 128
    """Height of a frame as it leaves the decoder, in pixels."""

    width: int = 128
    """Width of a frame as it leaves the decoder, in pixels."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Which frames of a clip are taken."""

    decoder: str = "auto"
    """How video is decoded. sparse (auto): PyAV, only what the wanted frames need. pyav: every frame from the key frame
    on. decord, torchcodec, nvdec (on the GPU): what they cannot decode exactly falls to sparse. Or MODULE:FUNCTION,
    which returns a decoder of your own."""

    decoder_gpus: float = 0.0
    """Share of a GPU that each decode actor reserves; nvdec needs one beside those of the training workers."""

    decoders: str = "auto"
    """Decode actors, one CPU each: a number, bounds MIN..MAX within which the pool scales by itself, or auto
    for all the CPUs that the training workers leave."""

    read_ahead: int = 32
    """Micro-batches that may lie decoded in the object store, for each training worker."""

    shuffle: Shuffle = "full"
    """Order of the samples: another permutation of all of them each epoch, or the manifest's own order."""

    repeats: int = 1
    """Clips taken from a sample each time it is decoded, at other times and with other crops. They cost little more
    than one, and come in other steps."""

    repeats_apart: int = 16
    """Steps, at least, between two clips of one decode. The object store holds those that come later."""

    failures: float = 0.01
    """Share of samples that may fail to decode before the run stops; each is replaced and written down."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"a frame of {self.height} x {self.width} pixels is empty: raise --data.height/width")
        if not 0 <= self.failures <= 1:
            raise UserError(f"--data.failures is a share between 0 and 1, got {self.failures}")
        if self.read_ahead < 1:
            raise UserError(f"--data.read-ahead must be at least 1, got {self.read_ahead}")
        for name in ("repeats", "repeats_apart"):
            if getattr(self, name) < 1:
                raise UserError(f"--data.{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        check_decoder(self.decoder)
        if self.decoder == "nvdec" and self.decoder_gpus <= 0:
            raise UserError(
                "--data.decoder nvdec needs a GPU: say with --data.decoder-gpus which share each actor takes"
            )
        self.pool(spare_cpus=1)

    def pool(self, spare_cpus: int) -> PoolSize:
        """Return the bounds of the decode pool where the trainers leave `spare_cpus` CPUs.

        Raises:
            UserError: `decoders` is neither "auto", a number nor MIN..MAX.
        """
        if self.decoders == "auto":
            return PoolSize(1, max(1, spare_cpus))
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", self.decoders)
        if not match:
            raise UserError(f"--data.decoders is a number, MIN..MAX or auto, got {self.decoders!r}")
        least, most = int(match[1]), int(match[2] or match[1])
        if not 1 <= least <= most:
            raise UserError(f"--data.decoders needs at least 1 decoder and MIN <= MAX, got {self.decoders!r}")
        return PoolSize(least, most)
