"""Bytes to text: the first rules for every file."""

from __future__ import annotations

import codecs
import re
from typing import Final

from synaptoroute.importers.refusal import FileRefused

UTF8_BOM: Final = codecs.BOM_UTF8
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_CONTROL: Final = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters but tab, line ends and U+0000."""


def decode(body: bytes) -> str:
    """Read bytes as UTF-8, with or without a byte order mark.

    Raises:
        FileRefused: ``file_empty``, ``file_encoding``, or ``file_syntax`` for U+0000.
    """
    if wide := wide_encoding(body):
        raise FileRefused("file_encoding", f"the text is {wide}: save it as UTF-8")
    body = body.removeprefix(UTF8_BOM)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line, column = _place(body, error.start)
        raise FileRefused(
            "file_encoding",
            f"line {line}, column {column}: the byte 0x{body[error.start]:02X} is not UTF-8: "
            "save the text as UTF-8",
            line=line,
        ) from None
    if (at := text.find("\x00")) >= 0:
        line, column = line_and_column(text, at)
        raise FileRefused("file_syntax", f"line {line}, column {column}: U+0000", line=line)
    if not text.strip():
        raise FileRefused("file_empty", "the file is empty")
    return text


def wide_encoding(body: bytes) -> str | None:
    """The name of an encoding that is not UTF-8, by its mark or its zeros; None for others."""
    for mark, name in _WIDE:
        if body.startswith(mark):
            return name
    # Without a mark: ASCII in UTF-16 has a zero in every second byte.
    head = body[:64]
    if len(head) >= 4 and b"\x00" in head:
        if not any(head[1::2]) or not any(head[::2]):
            return "UTF-16"
        if not any(head[1::4]) and not any(head[2::4]):
            return "UTF-32"
    return None


def _place(body: bytes, at: int) -> tuple[int, int]:
    return line_and_column(body[:at].decode(errors="replace"), at)


def line_and_column(text: str, at: int) -> tuple[int, int]:
    """Line and column of a character, counted from one."""
    before = text[:at]
    line_start = before.rfind("\n") + 1
    return before.count("\n") + 1, len(before) - line_start + 1


def control_character(text: str) -> str | None:
    """The first control character of a text, as ``U+0007``; None without one."""
    found = _CONTROL.search(text)
    return None if found is None else f"U+{ord(found[0]):04X}"
