"""How S3 is spoken to: by whose credentials, where, and what its refusals mean.

Credentials, region, endpoint, proxies and CA bundle come from boto3's standard chain (environment, profiles, SSO, web
identity, instance roles), so whatever `aws s3 ls` can see is seen here. Where the chain holds no credentials, or
AWS_NO_SIGN_REQUEST is set, requests are not signed, as public buckets want it. No error of this module repeats what a
library or a server said in its own words: there, keys, tokens and signed URLs are quoted.

**Why ranges are read with neither pyarrow.fs nor get_object.** pyarrow.fs (26, the AWS SDK for C++) returns
uninitialised memory, and no error, where an answer is shorter than what was asked for; has no read timeout on Linux,
so that a connection on which nothing comes any more hangs; and needs a request more for each object. boto3's
`get_object` takes five times its CPU time for each request. So boto3 signs an URL for an object, and ranges of it are
read with the HTTP session that lies below boto3. This costs about as little CPU as pyarrow.fs, and keeps what came of
a body that broke off.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NetworkError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError

from headrace.data.retry import StorageError, Transient
from headrace.errors import UserError

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 15.0
"""For how long nothing may come: ten times what storage takes to begin an answer when it is slow."""

_PIECE_BYTES = 256 << 10  # of a body: what is lost where it breaks off
_CONNECTIONS = 32
_UPLOAD_TRIES = 8
_SIGNED_SECONDS = 3600

_CODE = re.compile(rb"<Code>(\w+)</Code>")
_TRANSIENT_STATUS = {408, 425, 429}  # and all from 500 on
_TRANSIENT_CODES = {
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
}
_REGION_CODES = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}


class Connection:
    """Clients for one endpoint, made once in a process; any thread may use them."""

    def __init__(self) -> None:
        core = botocore.session.get_session()
        session = boto3.Session(botocore_session=core)
        self.source = _credentials_source(core)
        self._signature = "s3v4" if self.source else UNSIGNED
        self.client = self._make(session, "auto", tries=1)
        self.endpoint = str(self.client.meta.endpoint_url)
        host = urlsplit(self.endpoint).hostname or ""
        self.is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        chosen = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
        style = str(chosen or ("auto" if self.is_aws else "path"))
        if style != "auto":  # a server of one's own seldom has a name for each bucket
            self.client = self._make(session, style, tries=1)
        self._session, self._style = session, style
        self._http = URLLib3Session(
            verify=core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True,
            proxies=get_environ_proxies(self.endpoint),
            timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            max_pool_connections=_CONNECTIONS,
        )

    def _make(self, session: Any, style: str, tries: int) -> Any:
        config = Config(
            signature_version=self._signature,
            s3={"addressing_style": style},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": tries},
        )
        return session.client("s3", config=config)

    @cached_property
    def uploader(self) -> Any:
        """A client that tries again by itself."""
        return self._make(self._session, self._style, tries=_UPLOAD_TRIES)

    def sign(self, bucket: str, key: str) -> str:
        """Return an URL at which the object can be read for an hour. It is as secret as the credentials."""
        url: str = self.client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=_SIGNED_SECONDS
        )
        return url

    @contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[Answer]:
        """Yield the answer to a GET, its body not yet read.

        Raises:
            Transient: also inside the `with`, where the body breaks off.
            StorageError: the server is not trusted.
        """
        raw = None
        try:
            raw = self._http.send(AWSRequest("GET", url, headers, stream_output=True).prepare()).raw
            yield Answer(raw)
        except BotoCoreError as error:  # first: some of them are those of urllib3 as well
            raise _network_error(error, self.endpoint) from None
        except BodyTimeoutError:
            raise Transient(f"nothing came for {READ_TIMEOUT_SECONDS:g} s in mid-body") from None
        except (HTTPError, ConnectionError):
            raise Transient("the connection broke in mid-body") from None
        finally:
            if raw is not None:
                raw.close() if raw.connection is not None else raw.release_conn()  # a connection in mid-body is lost


class Answer:
    """The answer to a GET: `status`, `headers` and a body that is read once."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.status = int(raw.status)
        self.headers = raw.headers

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes; ends early, and says nothing, where the connection was closed."""
        while piece := self._raw.read(_PIECE_BYTES):
            yield piece

    def refusal(self) -> tuple[int, str, str]:
        """Return the status, the error code, and the region that the bucket is said to be in, of an error."""
        found = _CODE.search(self._raw.read(4096))
        return self.status, found[1].decode() if found else "", self.headers.get("x-amz-bucket-region", "")


@lru_cache(maxsize=1)
def connection() -> Connection:
    """Return this process's connection.

    Raises:
        UserError: the settings of the standard chain contradict themselves.
    """
    _keep_signatures_out_of_logs()
    try:
        return Connection()
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            f"the settings for S3 cannot be used ({type(error).__name__}): check the AWS_ variables and ~/.aws"
        ) from None


@contextmanager
def plain_errors(location: str) -> Iterator[None]:
    """Turn what boto3 raises into `Transient`, or into a `StorageError` that says what to do."""
    try:
        yield
    except ClientError as error:
        answer = error.response.get("ResponseMetadata", {})
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise refusal_error((int(answer.get("HTTPStatusCode", 0)), code, region), location) from None
    except BotoCoreError as error:
        raise _network_error(error, connection().endpoint) from None


def refusal_error(refusal: tuple[int, str, str], location: str) -> Transient | StorageError:
    """Return what to raise where a server refused: its status, error code and the bucket's region, if it names it."""
    status, code, region = refusal
    said = f"{status} {code}" if code and code != str(status) else str(status)
    there = connection()
    if status >= 500 or status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return Transient(f"the server answered {said}")
    if code == "NoSuchBucket":
        bucket = location.partition("://")[2].partition("/")[0]
        return StorageError(f"there is no bucket {bucket!r} at {there.endpoint}: check the name in {location!r}")
    if status == 404:
        return StorageError(f"there is nothing at {location!r}")
    if status == 412:
        return StorageError(f"{location!r} changed while it was read: index its source again")
    if code in _REGION_CODES or 300 <= status < 400:
        return wrong_region(location, region)
    if not there.source:
        return StorageError(f"{location!r} may not be read without credentials, and boto3 found none ({said})")
    if code in _EXPIRED_CODES:
        return StorageError(f"the credentials for {location!r}, from {there.source}, have expired: renew them ({said})")
    if status in (400, 401, 403):
        return StorageError(f"{location!r} was refused to the credentials from {there.source}: check them ({said})")
    return StorageError(f"{location!r} was refused ({said})")


def wrong_region(location: str, region: str) -> StorageError:
    """Return what to raise where a bucket lies in another region than the one that is set, if known in which."""
    ours = connection().client.meta.region_name
    return StorageError(
        f"the bucket of {location!r} does not lie in region {ours}: set AWS_DEFAULT_REGION to "
        f"{region or 'the one in which it lies'}"
    )


def _network_error(error: BotoCoreError, endpoint: str) -> Transient | StorageError:
    if isinstance(error, SSLError):
        return StorageError(
            f"{endpoint} is not trusted: AWS_CA_BUNDLE names the certificates of an authority of your own"
        )
    if isinstance(error, (ConnectTimeoutError, EndpointConnectionError)):
        return Transient(f"{endpoint} cannot be reached")
    if isinstance(error, ReadTimeoutError):
        return Transient(f"{endpoint} did not answer within {READ_TIMEOUT_SECONDS:g} s")
    if isinstance(error, (HTTPClientError, NetworkError)):
        return Transient(f"the connection to {endpoint} broke")
    return StorageError(f"boto3 cannot ask {endpoint} ({type(error).__name__}): check the AWS_ variables and ~/.aws")


def _credentials_source(core: Any) -> str:
    """Return where the standard chain found credentials, such as "env" or "iam-role"; empty if nowhere."""
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        return ""
    found = core.get_credentials()
    return "" if found is None else str(found.method)


class _Unsigned(logging.Filter):
    """Lets pass what quotes no signed URL and no token."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or "x-amz-" not in record.getMessage().lower()


def _keep_signatures_out_of_logs() -> None:
    for name in ("urllib3.connectionpool", "botocore.auth", "botocore.endpoint", "botocore.parsers", "botocore.hooks"):
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _Unsigned) for existing in logger.filters):
            logger.addFilter(_Unsigned())
