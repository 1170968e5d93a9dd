"""Texts that are to be erased, named by their hash alone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from synaptoroute.core.change import Rejection, StagedImport

TEXT_HASH_DIGITS: Final = 64


def text_hash(text: str) -> str:
    """Hash by which ``EraseTexts`` names a text."""
    # Of the exact text: which texts count as the same depends on the interpreter's tables of
    # Unicode, so the node that writes the entry finds them.
    return sha256(text.encode()).hexdigest()


def refuse_staged(imports: Mapping[str, StagedImport], hashes: frozenset[str]) -> None:
    """Refuse to erase a text that an open import would bring back.

    Raises:
        Rejection: One is staged.
    """
    for import_id, staged in sorted(imports.items()):
        for chunk in staged.chunks:
            for part in chunk.parts:
                texts = (*part.utterances, *part.negatives, part.description or "")
                if any(text_hash(text) in hashes for text in texts):
                    raise Rejection(
                        "import_rejected",
                        f"the open import {import_id!r} holds the text; commit or abort it first",
                    )
