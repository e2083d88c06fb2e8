"""Copying samples out of a source, to look at: their bytes as they are, under names that are safe."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from headrace.data.manifest import Manifest
from headrace.errors import UserError

LIST_FILE = "files.csv"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARACTERS = 80


def check_folder(folder: Path) -> None:
    """Check that `folder` is new or empty.

    Raises:
        UserError: it is not.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} is not an empty folder: choose another one for --extract")


def extract(
    manifest: Manifest, keys: Sequence[str], folder: Path, most_bytes: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Copy the bytes of samples into a folder, with a list of which file is which sample.

    Args:
        manifest: of their source.
        keys: of the samples.
        folder: new or empty.
        most_bytes: of all files together; a sample that does not fit any more is left.

    Returns:
        The file name of each sample that was copied, and why each other was not, by key.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: row for row, key in enumerate(manifest.table["key"].to_pylist())}
    written, left = dict[str, str](), dict[str, str]()
    for number, key in enumerate(keys):
        if key not in rows:
            left[key] = "the source no longer has it"
            continue
        where = manifest.bytes_of(rows[key])
        if where.size > most_bytes:
            left[key] = f"its {where.size:,} bytes are more than may still be copied"
            continue
        name = safe_name(number, key)
        try:
            with where.open(in_pieces=True) as source, (folder / name).open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                most_bytes -= file.tell()
        except OSError as error:
            (folder / name).unlink(missing_ok=True)
            left[key] = str(error)
            continue
        written[key] = name
    with (folder / LIST_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "key", "shard"])
        table.writerows([name, key, manifest.shard(rows[key])] for key, name in written.items())
    return written, left


def safe_name(number: int, key: str) -> str:
    """Return a file name for a sample: no folder, no hidden file, plain characters, not two alike.

    >>> safe_name(7, "../../etc/pass wd.mp4")
    '00007-pass_wd.mp4'
    """
    plain = _UNSAFE.sub("_", key.replace("\\", "/").rpartition("/")[2])[-_NAME_CHARACTERS:]
    return f"{number:05d}-{plain}"
