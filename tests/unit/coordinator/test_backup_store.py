"""Bucket requests are signed as Signature Version 4 demands, and listings are parsed safely."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from synaptoroute.errors import ClusterError, ConfigError
from synaptoroute_coordinator.actions.backup_store import (
    EMPTY_SHA256,
    BucketStore,
    Credentials,
    FolderStore,
    encode_query,
    parse_list,
    read_credentials,
    sign,
)

pytestmark = pytest.mark.unit

# The examples of the protocol's own documentation.
EXAMPLE = Credentials(
    "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
)
EXAMPLE_URL = "https://examplebucket.s3.amazonaws.com/"
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ({"lifecycle": ""}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            {"max-keys": "2", "prefix": "J"},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signature_matches_the_documentation(query: dict[str, str], signature: str) -> None:
    """The same request, key and time give the documented signature."""
    headers = sign(EXAMPLE, "GET", EXAMPLE_URL, query, EMPTY_SHA256, EXAMPLE_TIME)

    assert headers["authorization"].endswith(f"Signature={signature}")


def test_query_is_sorted_and_encoded() -> None:
    assert "a=1&b=x%2Fy%20z%26" == encode_query({"b": "x/y z&", "a": "1"})


def test_listing_gives_keys_and_continuation_token() -> None:
    """The XML namespace is optional."""
    page = (
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Contents><Key>p/a.json</Key></Contents><Contents><Key>p/b</Key></Contents>"
        b"<NextContinuationToken>n</NextContinuationToken></ListBucketResult>"
    )

    assert (["p/a.json", "p/b"], "n") == parse_list(page)
    assert ([], "") == parse_list(b"<ListBucketResult/>")


@pytest.mark.parametrize("page", [b"", b"<a>", b'<!DOCTYPE x [<!ENTITY y "z">]><x>&y;</x>'])
def test_malformed_listing_is_refused(page: bytes) -> None:
    """Documents that define entities are refused too."""
    with pytest.raises(ClusterError):
        parse_list(page)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [("", "b"), ("ftp://host", "b"), ("http://", "b"), ("http://host", ""), ("http://host", "/")],
)
def test_invalid_bucket_address_is_refused(endpoint: str, place: str, tmp_path: Path) -> None:
    """The error is raised at the start, not at the first backup."""
    with pytest.raises(ConfigError):
        BucketStore(endpoint, place, EXAMPLE, tmp_path)


@pytest.mark.parametrize("text", ["", "one", "one two three"])
def test_key_file_holds_two_words(text: str, tmp_path: Path) -> None:
    """An access key id and its secret."""
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_credentials(path, "us-east-1")


def test_secret_is_not_in_the_repr() -> None:
    assert EXAMPLE.secret not in repr(EXAMPLE)


async def test_files_of_a_folder_store_are_their_owner_s_alone(tmp_path: Path) -> None:
    """Stored, copied and fetched files, whatever the mode of the source."""
    source = tmp_path / "source"
    source.write_bytes(b"rows")
    source.chmod(0o644)
    store = FolderStore(tmp_path / "backups")
    await store.put("a.sqlite", source)
    await store.fetch("a.sqlite", tmp_path / "fetched")

    assert 0o700 == (tmp_path / "backups").stat().st_mode & 0o777
    assert 0o600 == (tmp_path / "backups" / "a.sqlite").stat().st_mode & 0o777
    assert 0o600 == (tmp_path / "fetched").stat().st_mode & 0o777
