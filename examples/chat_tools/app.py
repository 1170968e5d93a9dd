"""A chat service that answers by functions: a router in the process chooses the function.

    pip install synaptoroute-cluster
    uvicorn --app-dir examples/chat_tools app:app
    curl -s localhost:8000/chat -H 'content-type: application/json' \
        -d '{"message": "I was charged twice for order 4821"}'
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from synaptoroute import AdaptiveRouter, Encoder, Route

ROUTES = Path(__file__).with_name("routes.yaml")


def order_status(message: str) -> str:
    return f"Order {order_in(message)} is on its way."


def open_refund(message: str) -> str:
    return f"A refund for order {order_in(message)} is open."


def opening_hours(message: str) -> str:
    return "We are open from 9 to 18, Monday to Saturday."


TOOLS: dict[str, Callable[[str], str]] = {
    tool.__name__: tool for tool in (order_status, open_refund, opening_hours)
}


def order_in(message: str) -> str:
    found = re.search(r"\d{4,}", message)
    return found[0] if found else "(please give its number)"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    encoder = Encoder(providers=["CPUExecutionProvider"])
    router = AdaptiveRouter(encoder)
    for document in yaml.safe_load(ROUTES.read_text(encoding="utf-8"))["routes"]:
        router.add_route(Route.model_validate(document))
    await router.start()
    app.state.router = router
    yield
    await router.stop()
    encoder.close()


class Message(BaseModel):
    message: str = Field(min_length=1, max_length=4_000)


class Answer(BaseModel):
    tool: str | None
    confidence: float | None
    answer: str


app = FastAPI(title="Chat with tools", lifespan=lifespan)


@app.post("/chat")
async def chat(asked: Message, request: Request) -> Answer:
    """Answer a message by the tool of its route."""
    match = await request.app.state.router.aquery(asked.message)
    if not match:
        sorry = "I can help with orders, refunds and opening hours."
        return Answer(tool=None, confidence=match.confidence, answer=sorry)
    answer = TOOLS[match.route](asked.message)
    return Answer(tool=match.route, confidence=match.confidence, answer=answer)
