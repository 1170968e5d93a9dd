"""A program of semantic-router 1.1.1: it saves its router to a file, and answers texts.

    migration_peer.py MODEL TOKENIZER FOLDER

Reads ``routes.json`` and ``texts.json`` of the folder; writes ``router.yaml`` with the router's
own ``to_yaml``, and ``answers.json``.  The encoder is its own ``FastEmbedEncoder`` on the model
of the bundled encoder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from bundled_model import register

AT_ONCE = 8


async def answers(router, texts: list[str]) -> list[str | None]:  # type: ignore[no-untyped-def]
    """Ask its router, some at once."""
    found: list[str | None] = []
    for start in range(0, len(texts), AT_ONCE):
        asked = (router.acall(text) for text in texts[start : start + AT_ONCE])
        found += [answer.name for answer in await asyncio.gather(*asked)]
    return found


def main(model: str, folder: Path) -> None:
    from semantic_router import IndexedRouter, Route
    from semantic_router.encoders import FastEmbedEncoder

    drawn = json.loads((folder / "routes.json").read_text())
    routes = [Route(name=name, utterances=texts) for name, texts in drawn.items()]
    router = IndexedRouter(encoder=FastEmbedEncoder(name=model), routes=routes)
    router.to_yaml(folder / "router.yaml")
    texts = json.loads((folder / "texts.json").read_text())
    (folder / "answers.json").write_text(json.dumps(asyncio.run(answers(router, texts))))


if __name__ == "__main__":
    main(register(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]))
