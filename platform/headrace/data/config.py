"""Settings of the stream: which samples, which frames of them, at what size, decoded by whom."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from headrace.data.cache import LEAST_BYTES, Cache, default_folder
from headrace.data.decode.table import check_decoder
from headrace.data.order import CHUNK_SAMPLES, WINDOW_CHUNKS, Shuffle
from headrace.data.sampling import SamplingConfig
from headrace.errors import UserError

_OF_RAY = ("CPU", "GPU", "memory", "object_store_memory")


@dataclass(frozen=True)
class PoolSize:
    """Bounds between which the decode pool scales by itself; equal bounds fix it."""

    least: int
    most: int

    def of_stream(self, stream: int, streams: int) -> PoolSize:
        """Return the bounds of one of several pools that have these together."""
        least, most = (size // streams + (stream < size % streams) for size in (self.least, self.most))
        return PoolSize(least, most)


@dataclass(frozen=True)
class DataConfig:
    """The stream from a source to uint8 micro-batches."""

    source: str = "demo://street"
    """Folder of WebDataset tars, of Parquet files, of videos or of images, a zip of images, or one such file; local or
    s3://. Or several by weight, SOURCE=0.7,SOURCE=0.3. demo://street makes small street scenes of its own."""

    column: str = ""
    """Column of Parquet files that holds the images' or videos' bytes; the only one that can be it if not given."""

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

    decoder_resource: str = ""
    """Name of a custom resource of Ray, of which each decode actor takes one: decoders run only on nodes that have it,
    as many as they have of it. ray_cluster.yaml calls it decode. A Ray of the run's own has it wherever it starts."""

    decoders: str = "auto"
    """Decode actors, one CPU each: a number, bounds MIN..MAX within which the pool scales by itself, or auto
    for all the CPUs that the training workers leave."""

    read_ahead: int = 32
    """Micro-batches that may lie decoded in the object store, for each training worker."""

    streams: int = 1
    """Coordinators that share the stream, each with decoders and training workers of its own, as many as the others.
    One hands out some 200 micro-batches a second. Samples and their order are the same however many there are."""

    shuffle: Shuffle = "full"
    """Order of the samples. full: another permutation of all of them each epoch. chunk: likewise, but neighbours in a
    shard come at about the same time. none: the manifest's own order."""

    chunk_samples: int = CHUNK_SAMPLES
    """Of shuffle chunk: neighbouring samples that come at about the same time."""

    window_chunks: int = WINDOW_CHUNKS
    """Of shuffle chunk: chunks that are mixed with each other."""

    weights: str | None = None
    """Draw samples by weight, in place of a shuffle: a column of their metadata, a CSV or Parquet file with the columns
    key and weight, or class, by which all classes come equally often."""

    without_replacement: float = 0.0
    """Of weights: each epoch draws this share of the samples, none of them twice; 0 draws with replacement."""

    holdout: float = 0.0
    """Share of the groups of samples that training never sees; jobs/evaluate.py measures on them."""

    validation: str | None = None
    """Another source, or a mixture, whose samples are the held-out ones, in place of a share."""

    group_by: str = "key"
    """Of holdout: what keeps samples together. key: the key up to the first dot of its name; key:_ up to the first _,
    or another separator; folder; shard; or a column of the metadata."""

    repeats: int = 1
    """Clips taken from a sample each time it is decoded, at other times and with other crops. They cost little more
    than one, and come in other steps."""

    repeats_apart: int = 16
    """Steps, at least, between two clips of one decode. The object store holds those that come later."""

    cache_bytes: int = 0
    """Bytes of remote storage that each node keeps on its disk for all of its decode actors; 0 keeps none."""

    cache_folder: str = ""
    """Where they are kept: a folder on a local disk, ~/.cache/headrace/granules if not given."""

    failures: float = 0.01
    """Share of samples that may fail to decode before the run stops; each is replaced and written down."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"a frame of {self.height} x {self.width} pixels is empty: raise --data.height/width")
        if not 0 <= self.failures <= 1:
            raise UserError(f"--data.failures is a share between 0 and 1, got {self.failures}")
        if self.read_ahead < 1:
            raise UserError(f"--data.read-ahead must be at least 1, got {self.read_ahead}")
        for name in ("streams", "repeats", "repeats_apart"):
            if getattr(self, name) < 1:
                raise UserError(f"--data.{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        self._check_cache()
        self._check_order()
        check_decoder(self.decoder)
        if self.decoder == "nvdec" and self.decoder_gpus <= 0:
            raise UserError(
                "--data.decoder nvdec needs a GPU: say with --data.decoder-gpus which share each actor takes"
            )
        if self.decoder_resource in _OF_RAY:
            raise UserError(
                f"--data.decoder-resource names a resource of your own, such as decode, and not {self.decoder_resource}"
            )
        self.pool(spare_cpus=1)

    def _check_cache(self) -> None:
        if self.cache_bytes and self.cache_bytes < LEAST_BYTES:
            raise UserError(
                f"--data.cache-bytes is at least {LEAST_BYTES:,}, or 0 for no cache, got {self.cache_bytes:,}"
            )
        if self.cache_folder and not self.cache_bytes:
            raise UserError("--data.cache-folder means nothing without --data.cache-bytes, which says how much to keep")

    def _check_order(self) -> None:
        for name in ("chunk_samples", "window_chunks"):
            if getattr(self, name) < 1:
                raise UserError(f"--data.{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.weights is not None and self.shuffle != "full":
            raise UserError(
                f"--data.weights draws samples at random, so --data.shuffle {self.shuffle} means nothing: leave out one"
            )
        if not 0 <= self.without_replacement < 1:
            raise UserError(
                f"--data.without-replacement is a share below 1, or 0 for with replacement, got "
                f"{self.without_replacement:g}; at 1 every sample would come, whatever it weighs"
            )
        if self.without_replacement and self.weights is None:
            raise UserError("--data.without-replacement needs --data.weights; without them, every sample comes once")
        if not 0 <= self.holdout < 1:
            raise UserError(f"--data.holdout is a share of the groups, at least 0 and below 1, got {self.holdout:g}")
        if self.holdout and self.validation is not None:
            raise UserError("--data.holdout and --data.validation both say what is held out: leave out one")
        if self.group_by in ("", "key:"):
            raise UserError("--data.group-by key:SEPARATOR needs a separator, such as key:_")

    @property
    def holds_out(self) -> bool:
        """Whether there are samples that training never sees."""
        return self.holdout > 0 or self.validation is not None

    def open_cache(self) -> Cache | None:
        """Return this node's cache, or None.

        Raises:
            UserError: its folder cannot be written to.
        """
        if not self.cache_bytes:
            return None
        return Cache(Path(self.cache_folder).expanduser() if self.cache_folder else default_folder(), self.cache_bytes)

    def pool(self, spare_cpus: int) -> PoolSize:
        """Return the bounds of the decode pool where the trainers leave `spare_cpus` CPUs: a decoder for each stream
        at least.

        Raises:
            UserError: `decoders` is neither "auto", a number nor MIN..MAX, or not enough for all streams.
        """
        if self.decoders == "auto":
            return PoolSize(self.streams, max(self.streams, spare_cpus))
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", self.decoders)
        if not match:
            raise UserError(f"--data.decoders is a number, MIN..MAX or auto, got {self.decoders!r}")
        least, most = int(match[1]), int(match[2] or match[1])
        if not 1 <= least <= most:
            raise UserError(f"--data.decoders needs at least 1 decoder and MIN <= MAX, got {self.decoders!r}")
        if most < self.streams:
            raise UserError(
                f"--data.streams {self.streams} needs a decoder for each, but --data.decoders allows {most}: raise it, "
                f"or take fewer streams"
            )
        return PoolSize(max(least, self.streams), most)
