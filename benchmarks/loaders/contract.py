"""What a contender of the stream benchmark is: a module of this folder with a function `batches`, one loader a file.

    corpus on disk  ->  two workers that decode  ->  batches [B, T, H, W, 3] uint8 in the consumer's process

`batches(task)` yields (pixels, samples) for as long as it is asked; samples are the numbers of the corpus' samples that
stand in the batch. `prepare(task)`, where a module has it, is called once in a process of its own, not measured: it
converts the corpus to the loader's own format. A contender may live in another Python environment than headrace, so
nothing here imports more than NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

SIZE = 224
"""Height and width of what all deliver, in pixels."""

Kind = Literal["video", "image"]

Pixels: TypeAlias = NDArray[np.uint8]
Batches: TypeAlias = Iterator["tuple[Pixels | None, Sequence[int]] | str"]
"""Batches, with None for the pixels from those that keep nothing; a word between them notes what is reached now."""

_DESCRIPTION = "corpus.json"


@dataclass(frozen=True)
class Wanted:
    """One sample and what is wanted of it.

    Attributes:
        name: of the file it came from.
        frames: [T] counted in presentation order, ascending.
        seconds: [T] the middle of the time for which each is shown, on the clock of the container.
    """

    name: str
    frames: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Corpus:
    """Samples on disk, each in the forms in which loaders want them.

        corpus.json              this
        files/000012.mp4         each sample as a file
        shards/shard-000001.tar  the same in WebDataset tars

    Attributes:
        folder: where it lies.
        samples: by number; the file of number 12 is 000012.mp4, its key in a shard 000012.
        left_out: what could have been a sample, and why it is none.
    """

    folder: Path
    kind: Kind
    samples: tuple[Wanted, ...]
    left_out: dict[str, str]

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Return the corpus that lies in a folder."""
        said = json.loads((Path(folder) / _DESCRIPTION).read_text(encoding="utf-8"))
        samples = [Wanted(item["name"], tuple(item["frames"]), tuple(item["seconds"])) for item in said["samples"]]
        return cls(Path(folder), said["kind"], tuple(samples), said["left_out"])

    def save(self) -> None:
        """Write what `load` reads."""
        said = {"kind": self.kind, "samples": [asdict(sample) for sample in self.samples], "left_out": self.left_out}
        (self.folder / _DESCRIPTION).write_text(json.dumps(said), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def frames(self) -> int:
        """Frames that are wanted of each sample, T."""
        return len(self.samples[0].frames)

    @property
    def extension(self) -> str:
        """Extension of each sample, in files and in shards; decoders go by the content."""
        return "mp4" if self.kind == "video" else "jpg"

    @property
    def shards(self) -> list[str]:
        """Paths of the WebDataset shards."""
        return sorted(map(str, (self.folder / "shards").glob("*.tar")))

    def key(self, sample: int) -> str:
        """Return a sample's name in shards."""
        return f"{sample:06d}"

    def file(self, sample: int) -> Path:
        """Return where a sample lies as a file."""
        return self.folder / "files" / f"{self.key(sample)}.{self.extension}"


@dataclass(frozen=True)
class Task:
    """What a contender is to do.

    Attributes:
        corpus: folder of a `Corpus`.
        decoder: by whom, a name of `decoding.build`, for loaders that have no decoder of their own.
        batch: samples in a batch.
        batches: how many the consumer takes.
        epochs: how often the corpus is repeated, so that nobody comes to its end.
        workers: processes, or threads, that decode.
    """

    corpus: str
    decoder: str
    batch: int
    batches: int
    epochs: int
    workers: int = 2

    def converted(self, form: str) -> Path:
        """Return where the corpus lies in a form that has no repetition of its own: so often, one after the other."""
        return Path(self.corpus) / f"{form}-x{self.epochs}"
