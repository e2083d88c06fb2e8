"""Objects of S3: read in ranges, listed, written. How the server is spoken to is `s3_client`'s matter."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import ClientError

from headrace.data.retry import PATIENCE_SECONDS, START_PATIENCE_SECONDS, StorageError, Transient, retry
from headrace.data.s3_client import connection, plain_errors, refusal_error, wrong_region

_SIGN_AGAIN_SECONDS = 300  # boto3 renews credentials 10 minutes before they expire, so a signature outlives this
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Listed:
    """An object of a listing: its key in the bucket, its size in bytes, and when it was written."""

    key: str
    size: int
    mtime_ns: int


def split(location: str) -> tuple[str, str]:
    """Return the bucket and the key, or prefix, of s3://bucket/key."""
    bucket, _, key = location.partition("://")[2].partition("/")
    return bucket, key


def list_objects(location: str, patience_seconds: float = START_PATIENCE_SECONDS) -> list[Listed]:
    """Return the objects below a location, or the one that stands there.

    Raises:
        StorageError: the bucket is not there, may not be read, or does not answer in time.
    """
    bucket, key = split(location.rstrip("/"))
    ask = partial(_ask, "list_objects_v2", location, patience_seconds, Bucket=bucket)
    found, token = list[Listed](), dict[str, str]()
    while True:
        page = ask(Prefix=f"{key}/" if key else "", **token)
        _check_region(location, page)
        found += [_listed(item["Key"], item["Size"], item["LastModified"]) for item in page.get("Contents", [])]
        if not page.get("IsTruncated"):
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    found = [item for item in found if not item.key.endswith("/")]  # what marks an empty folder
    if found or not key:
        return found
    first = ask(Prefix=key, MaxKeys=1).get("Contents", [])
    return [_listed(item["Key"], item["Size"], item["LastModified"]) for item in first if item["Key"] == key]


def upload(path: Path, location: str) -> None:
    """Store a file, in several parts at a time if it is large; the object appears whole or not at all.

    Raises:
        StorageError: it could not be stored.
    """
    bucket, key = split(location)
    _write(location, lambda: connection().uploader.upload_file(str(path), bucket, key))


def move(source: str, target: str) -> None:
    """Give an object another name, replacing what has that name, without its bytes leaving the storage."""
    (bucket, key), (to_bucket, to_key) = split(source), split(target)
    _write(target, lambda: connection().uploader.copy({"Bucket": bucket, "Key": key}, to_bucket, to_key))
    delete(source)


def delete(location: str) -> None:
    """Delete an object, if it is there."""
    bucket, key = split(location)
    _write(location, lambda: connection().uploader.delete_object(Bucket=bucket, Key=key))


@dataclass
class S3Object:
    """One object, of which any thread may read ranges; all of them are of the version that was first seen.

    Attributes:
        location: s3://bucket/key.
        size: in bytes; None before anything was read.
        etag: of the version; None before anything was read.
    """

    location: str
    size: int | None = None
    etag: str | None = None
    _url: str = field(default="", repr=False)
    _signed_at: float = field(default=0.0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def stat(self) -> tuple[int, str]:
        """Return the size in bytes, and what tells this version from others.

        Raises:
            Transient, StorageError: as `fetch`.
        """
        if self.size is None or self.etag is None:
            bucket, key = split(self.location)
            with plain_errors(self.location):
                head = connection().client.head_object(Bucket=bucket, Key=key)
            self._remember(head["ContentLength"], head.get("ETag", ""))
        assert self.size is not None
        assert self.etag is not None
        return self.size, self.etag

    def fetch(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a range as they come, up to the end of the object.

        Raises:
            Transient: it broke off; what was yielded until then is right.
            StorageError: it will not go better another time.
        """
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
        if self.etag:
            headers["If-Match"] = self.etag
        with connection().get(self._signed_url(), headers) as answer:
            if answer.status == 416:  # the object ends before
                return
            if answer.status not in (200, 206):
                raise refusal_error(answer.refusal(), self.location)
            span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != offset:
                raise StorageError(f"{self.location!r} lies on a server that does not give ranges of it")
            total = int(span[3])
            self._remember(total, answer.headers.get("ETag", ""))
            came, expected = 0, min(size, total - offset)
            for piece in answer.pieces():
                came += len(piece)
                yield piece
            if came != expected:
                raise Transient(f"an answer ended after {came:,} of {expected:,} bytes")

    def _remember(self, size: int, etag: str) -> None:
        if self.size not in (None, size) or self.etag not in (None, etag):
            raise StorageError(f"{self.location!r} changed while it was read: index its source again")
        self.size, self.etag = size, etag

    def _signed_url(self) -> str:
        with self._lock:
            if not self._url or time.monotonic() - self._signed_at > _SIGN_AGAIN_SECONDS:
                with plain_errors(self.location):
                    self._url = connection().sign(*split(self.location))
                self._signed_at = time.monotonic()
            return self._url


def _ask(operation: str, location: str, patience_seconds: float, **arguments: Any) -> dict[str, Any]:
    """Call an operation of boto3's client."""

    client = connection().client

    def attempt() -> dict[str, Any]:
        with plain_errors(location):
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
            return answer

    return retry(attempt, location, patience_seconds)


def _check_region(location: str, page: dict[str, Any]) -> None:
    """Refuse a bucket of another region: boto3 finds it by itself, but an URL that it signs would not."""
    region = page["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
    there = connection()
    if there.is_aws and region and region != there.client.meta.region_name.replace("aws-global", "us-east-1"):
        raise wrong_region(location, region)


def _write(location: str, act: Callable[[], object]) -> None:
    """Call what writes, again and again while the storage is away: what would be lost is worth minutes."""

    def attempt() -> None:
        with plain_errors(location):
            try:
                act()
            except Boto3Error as error:  # of an upload: it hides what the server said
                if not isinstance(error.__context__, ClientError):
                    raise StorageError(f"{location!r} could not be written ({type(error).__name__})") from None
                raise error.__context__ from None

    retry(attempt, location, PATIENCE_SECONDS)


def _listed(key: str, size: int, written: datetime) -> Listed:
    return Listed(key, int(size), (written - _EPOCH) // timedelta(microseconds=1) * 1000)
