"""An S3 server whose answers go wrong in the ways that those of real ones do, at rates and at requests that are known.

client  ->  this server, which spoils some answers  ->  moto

Whether an answer is spoilt, and how, is a pure function of the seed, the request and how often it was made before, so
it does not depend on which thread asks first; a request that is made again may be answered well.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

from headrace.data import s3_client
from headrace.data.remote import remote_object
from headrace.keyed import uniform

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYNOTAREALKEY"
ACCESS_KEY = "AKIANOTAREALKEY00000"
TOKEN = "IQoJb3JpZ2luNOTAREALTOKEN"


KINDS = ("slow", "unavailable", "internal", "reset", "cut", "short", "stalled")


@dataclass(frozen=True)
class Faults:
    """How many of the answers go wrong, as shares of all; their sum is at most 1.

    Attributes:
        slow: begin only after `slow_seconds`.
        unavailable: 503 SlowDown.
        internal: 500 InternalError, with a body that is no XML.
        reset: the connection is reset in mid-body.
        cut: the connection ends in mid-body, short of its Content-Length.
        short: fewer bytes than asked for, with a Content-Length that says so.
        stalled: nothing more comes in mid-body for `stall_seconds`; the connection stays open.
        seed: another seed, other requests.
    """

    slow: float = 0
    unavailable: float = 0
    internal: float = 0
    reset: float = 0
    cut: float = 0
    short: float = 0
    stalled: float = 0
    seed: int = 0
    slow_seconds: float = 0.2
    stall_seconds: float = 8

    def of(self, request: str, time_asked: int) -> str | None:
        """Return what goes wrong with the answer to this request, asked for the `time_asked`-th time."""
        drawn = float(uniform("faulty", self.seed, request, time_asked))
        for kind in KINDS:
            drawn -= getattr(self, kind)
            if drawn < 0:
                return kind
        return None


class FaultyS3:
    """A running server.

    Attributes:
        faults: may be exchanged at any time.
        done: how many answers went wrong, by kind, and "good" ones.
        requests: every request, as (method, path, range).
        clients: the addresses from which they came, one for each connection.
        gone: the server accepts connections and closes them.
        region: in which the buckets are said to lie.
        refuse: (status, code) with which every request is answered, such as (403, "AccessDenied").
    """

    def __init__(self) -> None:
        self.region = "us-east-1"
        self.faults = Faults()
        self.done: Counter[str] = Counter()
        self.requests: list[tuple[str, str, str]] = []
        self.clients: set[object] = set()
        self.gone = False
        self.refuse: tuple[int, str] | None = None
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._moto = Client(DomainDispatcherApplication(create_backend_app))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """Forget what was counted, and be sound again."""
        with self._lock:
            self.done.clear()
            self.requests.clear()
            self.clients.clear()
            self._asked.clear()
            self.faults, self.gone, self.refuse = Faults(), False, None

    def fault_of(self, method: str, path: str, span: str) -> str | None:
        with self._lock:
            name = f"{method} {path} {span}"
            self.requests.append((method, path, span))
            self._asked[name] += 1
            fault = self.faults.of(name, self._asked[name])
            self.done[fault or "good"] += 1
            return fault

    def answer(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Any:
        return self._moto.open(path, method=method, headers=headers, data=body, buffered=True)


class _Server(ThreadingHTTPServer):
    owner: FaultyS3
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away: they have reason to."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        span = self.headers.get("Range", "")
        owner.clients.add(self.client_address)
        if owner.gone:
            return self._hang_up()
        if owner.refuse is not None:
            return self._error(*owner.refuse)
        fault = owner.fault_of(self.command, self.path.partition("X-Amz-")[0], span)
        if fault == "unavailable":
            return self._error(503, "SlowDown")
        if fault == "internal":
            return self._send(500, [("Content-Type", "text/plain")], b"something went wrong")
        if fault == "slow":
            time.sleep(owner.faults.slow_seconds)
        answer = owner.answer(self.command, self.path, list(self.headers.items()), body)
        headers = [
            (name, value)
            for name, value in answer.headers.items()
            if name.lower() not in ("content-length", "connection", "server", "date", "transfer-encoding")
        ]
        length = int(answer.headers.get("Content-Length") or len(answer.data))
        return self._send(answer.status_code, headers, answer.data, fault, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _error(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("x-amz-bucket-region", self.server.owner.region)]
        self._send(status, headers, body)

    def _send(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None = None, length: int = 0
    ) -> None:
        if fault == "short":
            body = body[: len(body) // 2]
        is_head = self.command == "HEAD"
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length if is_head else len(body)))
        self.end_headers()
        if is_head:
            return
        if fault not in ("reset", "cut", "stalled"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if fault == "stalled":
            time.sleep(self.server.owner.faults.stall_seconds)
        if fault == "reset":  # closing a socket that does not linger sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_faulty_s3(cache: str) -> Iterator[FaultyS3]:
    """Serve S3 on this machine; the standard variables lead there, and the user's own settings are out of sight."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = FaultyS3()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_SESSION_TOKEN": TOKEN,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "XDG_CACHE_HOME": cache,
            }.items():
                patch.setenv(name, value)
            forget_connections()
            yield server
    finally:
        forget_connections()
        server.close()


def forget_connections() -> None:
    """Let the next request be made as by a new process, in another environment."""
    s3_client.connection.cache_clear()
    forget_objects()


def forget_objects() -> None:
    """Let the next request be made as if nothing was read before."""
    remote_object.cache_clear()


def put(bucket: str, objects: dict[str, bytes]) -> None:
    """Store objects, in a bucket that is made if there is none."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    for name, data in objects.items():
        client.put_object(Bucket=bucket, Key=name, Body=data)
