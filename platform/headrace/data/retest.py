"""What a quarantined sample really is: decoded again, in a process apart, by every decoder that is installed.

reads now         the run's own decoder reads it: memory ran out, time did, or the file was mended since
other decoder     another one does; that it gives the right frames is not said (see `decode.torchcodec`)
bad               none does
storage           its bytes cannot be read: nothing is known of the sample
gone              the source no longer has it, or its index knows that it is bad
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from typing_extensions import Self

from headrace.data.decode.isolated import IsolatedDecoder
from headrace.data.decode.limits import Limits
from headrace.data.decode.table import DECODERS
from headrace.data.failures import SampleError
from headrace.data.manifest import Manifest
from headrace.errors import RunError, UserError

Verdict = Literal["reads now", "other decoder", "bad", "storage", "gone"]

RETEST_FRAMES = 64
"""Frames over the whole of a video; a run draws its own few, so damage that these miss may still be there."""

_SIZE = 64
_VIDEO = [name for name in DECODERS if name not in ("auto", "image")]


@dataclass(frozen=True)
class Retested:
    """What became of one sample.

    Attributes:
        verdict: see the top of this file.
        answers: what each decoder said, "" if it decoded the sample; or what the storage said.
    """

    verdict: Verdict
    answers: dict[str, str] = field(default_factory=dict)


class Retest:
    """Decodes samples of one source again; ends its processes when it is left.

    Args:
        manifest: of the source as it is now.
        decoder: that the run used for video.
        limits: on time and size, for each decoder.

    Attributes:
        missing: decoders that cannot be started here, and why.
    """

    def __init__(self, manifest: Manifest, decoder: str, limits: Limits | None = None) -> None:
        own = "sparse" if decoder == "auto" else decoder
        self._manifest = manifest
        self._rows = {key: row for row, key in enumerate(manifest.table["key"].to_pylist())}
        self._video = [IsolatedDecoder(name, limits) for name in dict.fromkeys([own, *_VIDEO])]
        self._image = [IsolatedDecoder("image", limits)]
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self._video + self._image:
            decoder.close()

    def of(self, key: str) -> Retested:
        """Decode one sample again."""
        row = self._rows.get(key)
        if row is None:
            return Retested("gone", {"manifest": "no such sample"})
        error = self._manifest.table["error_message"][row].as_py()
        if error is not None:
            return Retested("gone", {"manifest": str(error)})
        try:
            answers = dict(self._answers(row))
        except OSError as failed:
            return Retested("storage", {"storage": str(failed)})
        reading = [not answer for answer in answers.values()]
        verdict: Verdict = "bad"
        if any(reading):
            verdict = "reads now" if reading[0] else "other decoder"
        return Retested(verdict, answers)

    def _answers(self, row: int) -> Iterator[tuple[str, str]]:
        is_video = self._manifest.table["kind"][row].as_py() == "video"
        frames = RETEST_FRAMES if is_video else 1
        times = np.linspace(0.0, float(self._manifest.seconds[row]), frames)
        out = np.zeros((frames, _SIZE, _SIZE, 3), np.uint8)
        index = self._manifest.video_index(row)
        for decoder in self._video if is_video else self._image:
            if decoder.name in self.missing:
                continue
            answer = ""
            with self._manifest.bytes_of(row).open(in_pieces=index is not None) as file:
                try:
                    decoder.decode(file, times, out, index)
                except SampleError as error:
                    answer = f"{error.reason}: {error}"
                except (UserError, RunError) as error:  # it was never started
                    self.missing[decoder.name] = str(error)
                    continue
                except RuntimeError as error:
                    answer = f"a fault of the decoder: {str(error).strip().splitlines()[-1]}"
            yield decoder.name, answer
