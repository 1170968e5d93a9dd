"""Backup stores: files in a folder, or in a bucket of an S3-compatible store.

A store keeps files by name.  ``put`` is all or nothing: every listed file is complete.

Backups need only five calls of the S3 protocol, so they are implemented here.  Requests are
signed by AWS Signature Version 4 with the hash of the body, and paths name the bucket.  An
object appears as a whole when its PUT is answered.  Source: "Signature Version 4 for API
requests", AWS IAM documentation; "ListObjectsV2", Amazon S3 API reference.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import httpx

from synaptoroute.errors import ClusterError, ConfigError
from synaptoroute.private_files import make_private_file, make_private_folder, open_private


class BackupStore(Protocol):
    """Keeps files by name."""

    @property
    def scratch(self) -> Path:
        """A local folder for files in transit."""
        ...

    async def put(self, name: str, source: Path) -> None:
        """Store a local file under a name; the file may be moved away."""
        ...

    async def names(self) -> list[str]: ...

    async def read(self, name: str, bytes_max: int) -> bytes: ...

    async def fetch(self, name: str, target: Path) -> None: ...

    async def remove(self, name: str) -> None:
        """Delete a file; a missing file is not an error."""
        ...

    async def close(self) -> None: ...


class FolderStore:
    """Files in one folder; raises OSError, or ClusterError for a file that is too large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def scratch(self) -> Path:
        """The folder itself, so that storing a file is a rename."""
        return self._folder

    async def put(self, name: str, source: Path) -> None:
        await asyncio.to_thread(self._put, name, source)

    def _put(self, name: str, source: Path) -> None:
        make_private_folder(self._folder)
        target = self._folder / name
        # Write, sync, rename: the name appears only once the content is durable, and a rename
        # is atomic only within one folder.
        if source.parent == self._folder:
            draft = source
        else:
            draft = self._folder / f".{uuid.uuid4().hex}"
            make_private_file(draft)
            shutil.copyfile(source, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)

    async def names(self) -> list[str]:
        return await asyncio.to_thread(self._names)

    def _names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]

    async def read(self, name: str, bytes_max: int) -> bytes:
        return await asyncio.to_thread(self._read, name, bytes_max)

    def _read(self, name: str, bytes_max: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise ClusterError(f"{name} has more than {bytes_max} bytes")
        return content

    async def fetch(self, name: str, target: Path) -> None:
        await asyncio.to_thread(make_private_file, target)
        await asyncio.to_thread(shutil.copyfile, self._folder / name, target)

    async def remove(self, name: str) -> None:
        path = self._folder / name
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def close(self) -> None:
        """Do nothing: no connection is open."""


PART_BYTES: Final = 1 << 20
OBJECT_BYTES_MAX: Final = 5 * (1 << 30)
"""Limit of one PUT."""
LIST_BYTES_MAX: Final = 4_194_304
LIST_PAGES_MAX: Final = 100
CALL_SECONDS: Final = 60.0
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_UNRESERVED: Final = "-_.~"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for signing."""

    key_id: str
    secret: str = field(repr=False)
    region: str


def read_credentials(path: Path, region: str) -> Credentials:
    """Read an access key from a file: its id and its secret, one per line."""
    try:
        words = path.read_text(encoding="utf-8")[:4_096].split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the bucket's key from {path}: {error}") from error
    if len(words) != 2:
        raise ConfigError(f"{path} must contain the id of an access key and its secret")
    return Credentials(words[0], words[1], region)


def sign(
    credentials: Credentials,
    method: str,
    url: str,
    query: Mapping[str, str],
    sha256: str,
    now: datetime,
) -> dict[str, str]:
    """Make the signature headers of a request."""
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{credentials.region}/s3/aws4_request"
    headers = {"host": parts.netloc, "x-amz-content-sha256": sha256, "x-amz-date": stamp}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            method,
            parts.path,
            encode_query(query),
            *(f"{name}:{value}" for name, value in sorted(headers.items())),
            "",
            names,
            sha256,
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([_ALGORITHM, stamp, scope, digest])
    key = f"AWS4{credentials.secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def encode_query(query: Mapping[str, str]) -> str:
    """Encode a query as the signature demands: sorted, everything encoded."""
    pairs = sorted((_encode(name), _encode(value)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def _encode(text: str) -> str:
    return quote(text, safe=_UNRESERVED)


class BucketStore:
    """Files under one prefix of a bucket.

    Every call raises ClusterError if the store does not answer or refuses.

    Args:
        endpoint: Address of the store.
        place: ``bucket`` or ``bucket/prefix``.
        credentials: Credentials for signing.
        scratch: A local folder for files in transit.
    """

    def __init__(self, endpoint: str, place: str, credentials: Credentials, scratch: Path) -> None:
        bucket, _, prefix = place.strip("/").partition("/")
        parts = urlsplit(endpoint)
        if not bucket or parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError("a bucket needs a name and the http(s) address of its store")
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{_encode(bucket)}"
        self._prefix = f"{prefix.strip('/')}/" if prefix else ""
        self._credentials = credentials
        self._scratch = scratch
        self._client = httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False)

    @property
    def scratch(self) -> Path:
        return self._scratch

    async def close(self) -> None:
        await self._client.aclose()

    async def put(self, name: str, source: Path) -> None:
        # The signature covers the hash of the body, so the file is read twice.
        size_bytes, sha256 = await asyncio.to_thread(_measure, source)
        if size_bytes > OBJECT_BYTES_MAX:
            raise ClusterError(f"{name} is larger than one object may be")
        headers = {"content-length": str(size_bytes)}
        await self._send(
            self._request("PUT", name, sha256=sha256, headers=headers, content=_parts(source))
        )

    async def names(self) -> list[str]:
        """List the names under the prefix, without folders below it."""
        found: list[str] = []
        query = {"list-type": "2", "prefix": self._prefix, "delimiter": "/"}
        for _ in range(LIST_PAGES_MAX):
            answer = await self._send(self._request("GET", None, query=query))
            keys, following = parse_list(answer.content[:LIST_BYTES_MAX])
            found += [key.removeprefix(self._prefix) for key in keys]
            if not following:
                return found
            query = {**query, "continuation-token": following}
        raise ClusterError("the bucket holds too many objects under this prefix")

    async def read(self, name: str, bytes_max: int) -> bytes:
        # The length is checked while reading: the store may send any amount.
        content = bytearray()
        async for part in self._stream(name):
            content += part
            if len(content) > bytes_max:
                raise ClusterError(f"{name} has more than {bytes_max} bytes")
        return bytes(content)

    async def fetch(self, name: str, target: Path) -> None:
        with await asyncio.to_thread(open_private, target, "wb") as file:
            async for part in self._stream(name):
                await asyncio.to_thread(file.write, part)

    async def remove(self, name: str) -> None:
        await self._send(self._request("DELETE", name))

    # --- requests ----------------------------------------------------------------------

    def _request(
        self,
        method: str,
        name: str | None,
        *,
        query: Mapping[str, str] | None = None,
        sha256: str = EMPTY_SHA256,
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
    ) -> httpx.Request:
        path = "" if name is None else "/" + quote(self._prefix + name, safe=_UNRESERVED + "/")
        url, asked = self._url + path, query or {}
        signed = sign(self._credentials, method, url, asked, sha256, datetime.now(UTC))
        shown = f"{url}?{encode_query(asked)}" if asked else url
        return self._client.build_request(
            method, shown, headers={**signed, **(headers or {})}, content=content
        )

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = await self._client.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClusterError(f"the bucket does not answer: {error!r}") from error
        _check(request.method, answer)
        return answer

    async def _stream(self, name: str) -> AsyncIterator[bytes]:
        try:
            answer = await self._client.send(self._request("GET", name), stream=True)
            try:
                _check("GET", answer)
                async for part in answer.aiter_bytes(PART_BYTES):
                    yield part
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClusterError(f"the bucket does not answer: {error!r}") from error


def _check(method: str, answer: httpx.Response) -> None:
    if not answer.is_success:
        raise ClusterError(f"the bucket refuses {method}: status {answer.status_code}")


def parse_list(document: bytes) -> tuple[list[str], str]:
    """Parse a page of a listing: its keys, and the token of the next page or nothing."""
    # ElementTree expands entities: a hostile store could exhaust the memory with them.
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise ClusterError("the bucket's listing is malformed")
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ClusterError("the bucket's listing is malformed") from error
    keys = [each.text or "" for each in root.iterfind("{*}Contents/{*}Key")]
    following = root.findtext("{*}NextContinuationToken") or ""
    return keys, following


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


async def _parts(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            yield part
