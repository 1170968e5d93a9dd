"""One endpoint called again and again, with sound requests or broken ones."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@schemathesis.serializer("application/x-ndjson")
def _as_lines(context: Any, value: Any) -> bytes:
    """A generated body of lines: the schema says no more of it than that it is a text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def code_of(answer: Any) -> str:
    """The code of an error, in either shape."""
    document = answer.json()
    code: str = document.get("error", document)["code"]
    return code


def fuzz(
    operation: Any,
    mode: GenerationMode,
    url: str,
    *,
    examples_max: int,
    foreseen: Set[str],
    headers: Mapping[str, str] | None = None,
) -> None:
    """Demand that status, content type, headers and body are those of the document.

    Args:
        operation: Of a schemathesis schema.
        mode: Requests that conform, or that do not.
        url: Of the server.
        examples_max: Requests to make.
        foreseen: Codes that may come with a status of 500 or above.
        headers: Sent with each request.
    """
    with requests.Session() as session:

        @settings(
            max_examples=examples_max,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def call(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(
                base_url=url,
                session=session,
                timeout=20,
                headers=dict(headers or {}),
                # A schema cannot say "not white space alone" or "a key that is new"; and
                # whoever asks for the impossible in time is answered with 503 or 504.
                excluded_checks=[positive_data_acceptance, not_a_server_error],
            )
            assert answer.status_code < 500 or code_of(answer) in foreseen, answer.text

        try:
            call()
        except Unsatisfiable:
            assert mode == GenerationMode.NEGATIVE, "every operation can be called"
