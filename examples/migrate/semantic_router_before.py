"""A shop's router with semantic-router 1.x; it saves itself for the move."""

import sys

from semantic_router import IndexedRouter, Route
from semantic_router.encoders import FastEmbedEncoder

refund = Route(
    name="refund",
    utterances=["I want my money back", "Refund my order", "How do I return this?"],
)
delivery = Route(
    name="delivery",
    utterances=["Where is my parcel?", "Track my order", "When does it arrive?"],
)
encoder = FastEmbedEncoder(name="sentence-transformers/all-MiniLM-L6-v2")
router = IndexedRouter(encoder=encoder, routes=[refund, delivery])

for text in sys.argv[1:]:
    print(f"{text}: {router(text).name}")

router.to_yaml("router.yaml")
