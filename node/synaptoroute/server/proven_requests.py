"""Requests with a proof: the body is verified before it is used, the answer is signed.

Both are held whole in memory: a proof covers the hash of the body, and the signature of the
answer stands in its head.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from starlette.types import Message, Receive, Send

from synaptoroute.errors import TooLarge
from synaptoroute.trust.requests import ANSWER_HEADER, NONCE_HEADER, Gatekeeper, Proven
from synaptoroute.web.problems import ClientGone

ANSWER_BYTES_MAX: Final = 33_554_432


async def read_whole(receive: Receive, bytes_max: int) -> bytes:
    """Read a whole body.

    Raises:
        TooLarge: It has more bytes than allowed.
        ClientGone: The client closed the connection.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection")
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise TooLarge(f"a body has at most {bytes_max} bytes", limit=bytes_max)
        if not message.get("more_body"):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read to the application, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


class SignedAnswers:
    """Sends an answer with its signature once it is complete."""

    def __init__(self, gatekeeper: Gatekeeper, proven: Proven, send: Send) -> None:
        self._gatekeeper = gatekeeper
        self._proven = proven
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if len(self._body) > ANSWER_BYTES_MAX:
            raise TooLarge(
                f"an answer to a proven request has at most {ANSWER_BYTES_MAX} bytes",
                limit=ANSWER_BYTES_MAX,
            )
        if message.get("more_body"):
            return
        start, self._start = self._start, None
        digest = sha256(self._body).hexdigest()
        answer = self._gatekeeper.answer(self._proven, start["status"], digest)
        start["headers"] = [
            *start.get("headers", ()),
            (ANSWER_HEADER.lower().encode(), answer.encode()),
            (NONCE_HEADER.lower().encode(), self._gatekeeper.nonces.issue().encode()),
        ]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": bytes(self._body)})
