"""Goal: only entries signed with a valid key are accepted.

Method: every wrong key and signature.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from synaptoroute.core.codec import HEADER_BYTES
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.sequencer.wire import SEAL_1_BYTES, SEAL_2_BYTES, SigningKeys

pytestmark = pytest.mark.unit

FRAME = bytes(range(HEADER_BYTES)) + b"payload"
OLD, NEW = b"o" * 32, b"n" * 32


def test_sealed_frame_opens_to_itself() -> None:
    """``open`` removes the signature that ``seal`` added."""
    signing_keys = SigningKeys("ns", {"a": OLD})
    sealed = signing_keys.seal(FRAME)

    assert len(FRAME) + SEAL_1_BYTES == len(sealed)
    assert signing_keys.open(sealed).frame == FRAME


def test_without_keys_nothing_is_signed_or_refused() -> None:
    """A node without keys accepts signed entries, too."""
    plain = SigningKeys("ns")

    assert plain.seal(FRAME) == FRAME
    assert plain.open(SigningKeys("ns", {"a": OLD}).seal(FRAME)).frame == FRAME


def test_either_of_two_keys_is_valid() -> None:
    """The first key signs, all verify."""
    both = SigningKeys("ns", {"new": NEW, "old": OLD})

    assert both.open(SigningKeys("ns", {"old": OLD}).seal(FRAME)).frame == FRAME
    assert SigningKeys("ns", {"new": NEW}).open(both.seal(FRAME)).frame == FRAME


@pytest.mark.parametrize(
    "body",
    [
        FRAME,
        SigningKeys("ns", {"b": OLD}).seal(FRAME),
        SigningKeys("ns", {"a": NEW}).seal(FRAME),
        SigningKeys("other", {"a": OLD}).seal(FRAME),
        SigningKeys("ns", {"a": OLD}).seal(FRAME)[:-50],
        SigningKeys("ns", {"a": OLD}).seal(FRAME)[:10],
        b"SK\xff\xff" + SigningKeys("ns", {"a": OLD}).seal(FRAME)[4:],
    ],
    ids=["unsigned", "unknown id", "other key", "other namespace", "cut", "shorter", "no text"],
)
def test_invalid_signature_is_refused(body: bytes) -> None:
    """Unsigned, foreign or truncated entries are refused and marked as forged."""
    with pytest.raises(ProtocolError) as caught:
        SigningKeys("ns", {"a": OLD}).open(body)

    assert caught.value.fields["forged"] is True


@pytest.mark.parametrize("at", range(0, SEAL_1_BYTES + HEADER_BYTES, 7))
def test_altered_signature_or_header_is_refused(at: int) -> None:
    """Every byte of signature and header is verified."""
    signing_keys = SigningKeys("ns", {"a": OLD})
    sealed = bytearray(signing_keys.seal(FRAME))
    sealed[at] ^= 1

    with pytest.raises(ProtocolError):
        signing_keys.open(bytes(sealed))


def test_key_file_lists_keys_in_order(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; the first key signs."""
    path = tmp_path / "keys"
    path.write_text(f"# rotated in May\nnew {'n' * 32}\n\nold {'o' * 32}\n")

    assert [("new", NEW), ("old", OLD)] == list(SigningKeys.load("ns", path).keys.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "a short\n",
        f"name-too-long {'x' * 32}\n",
        f"a {'x' * 32}\na {'y' * 32}\n",
        "".join(f"k{n} {'x' * 32}\n" for n in range(5)),
    ],
)
def test_malformed_key_file_is_refused(tmp_path: Path, text: str) -> None:
    """A key file without keys, or with weak ones, is an error at the start."""
    path = tmp_path / "keys"
    path.write_text(text)

    with pytest.raises(ConfigError):
        SigningKeys.load("ns", path)


def test_secrets_are_not_shown() -> None:
    """The representation contains no secret."""
    assert "oooo" not in repr(SigningKeys("ns", {"a": OLD}))


STOOD = Position(3, 7, "ab" * 20)


def test_seal_of_level_2_names_where_its_author_stood() -> None:
    signing_keys = SigningKeys("ns", {"a": OLD}, author_key=b"k" * 32)
    sealed = signing_keys.seal(FRAME, STOOD)
    opened = signing_keys.open(sealed)

    assert len(FRAME) + SEAL_2_BYTES == len(sealed)
    assert (opened.frame, opened.stood, opened.seal) == (FRAME, STOOD, sealed[:SEAL_2_BYTES])


@pytest.mark.parametrize("at", range(SEAL_2_BYTES + HEADER_BYTES))
def test_every_byte_of_a_seal_of_level_2_is_verified(at: int) -> None:
    signing_keys = SigningKeys("ns", {"a": OLD})
    sealed = bytearray(signing_keys.seal(FRAME, STOOD))
    sealed[at] ^= 1
    with pytest.raises(ProtocolError):
        signing_keys.open(bytes(sealed))


def test_seal_of_level_1_does_not_pass_as_one_of_level_2() -> None:
    signing_keys = SigningKeys("ns", {"a": OLD})
    assert signing_keys.open(signing_keys.seal(FRAME)).stood is None
