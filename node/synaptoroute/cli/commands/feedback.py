"""``synaptoroute feedback`` and ``unmatched``: what people said, and what no route took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, FileRejected
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.query_backend import NO_ROUTE
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table

PAGE_ITEMS: Final = 500
CLUSTERED_MAX: Final = 1_000
TEXTS_SHOWN: Final = 3
ResolveAs = Literal["utterance", "negative", "dismiss"]
SIMILARITY_DEFAULT: Final = 0.55
Similarity = Annotated[
    float, typer.Option(min=-1.0, max=1.0, help="Lowest similarity inside a group.")
]
GroupNumber = Annotated[int, typer.Argument(min=1, help="Number of the group.")]
NewRoute = Annotated[bool, typer.Option("--create", help="Create the route; it must not exist.")]


# --- the review queue ----------------------------------------------------------------------


def add(
    text: Annotated[str, typer.Argument(help="The text that was asked.")] = "",
    route: Annotated[
        str, typer.Option(help="The route that is right; '-' for no route.")
    ] = NO_ROUTE,
    was: Annotated[str, typer.Option(help="The route of the answer; '-' for none.")] = NO_ROUTE,
    decision_id: Annotated[
        str | None,
        typer.Option(
            "--decision-id", show_default=False, help="Name the answer instead of the text."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say which route a text belongs to."""
    if bool(text) == bool(decision_id):
        raise BadUsage("give a text or --decision-id")
    body: dict[str, Any] = {"route": _route(route)}
    if decision_id:
        body["decision_id"] = decision_id
    else:
        body |= {"text": text, "was": _route(was)}
    with NodeClient(url, api_key) as client:
        receipt = client.write("POST", "/v1/feedback", body)
    if as_json:
        print_json(receipt)
    else:
        note(f"item {receipt['id']}, said {receipt['times']} times")


def list_items(
    route: Annotated[
        str | None, typer.Option(show_default=False, help="Only items that name this route.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the review queue, newest first."""
    with NodeClient(url, api_key) as client:
        items = list(_items(client, route))
        is_on = client.get("/v1/feedback", limit=1)["is_on"]
    if as_json:
        print_json(items)
        return
    print_table(
        ("item", "said", "times", "text", "was", "belongs to"),
        (
            (
                each["id"],
                _time(each["at_ms"]),
                str(each["times"]),
                each["text"] or "(no text is kept)",
                each["was"] or "-",
                each["route"] or "-",
            )
            for each in items
        ),
        right=("times",),
    )
    note(f"{len(items)} items" if is_on else "the review queue is off")


def resolve(
    items: Annotated[list[str], typer.Argument(help="Items of the review queue.")],
    resolve_as: Annotated[
        ResolveAs, typer.Option("--as", help="What becomes of them.")
    ] = "utterance",
    route: Annotated[
        str | None,
        typer.Option(show_default=False, help="The route that learns; else the one of the item."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(show_default=False, help="The text to learn instead, for a single item."),
    ] = None,
    create: NewRoute = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Turn items into utterances or negatives, or dismiss them, in one write."""
    if text is not None and len(items) > 1:
        raise BadUsage("--text replaces the text of a single item")
    body = {
        "items": [
            {"id": each, "as": resolve_as, "route": route, "text": text, "create": create}
            for each in items
        ]
    }
    with NodeClient(url, api_key) as client:
        result = client.write("POST", "/v1/feedback/resolve", body)
    if as_json:
        print_json(result)
    else:
        note(f"{len(items)} items resolved at {result['version']}, {result['count']} texts learned")


def set_queue(
    state: Annotated[Literal["on", "off"], typer.Argument(help="Switch the queue on or off.")],
    items_max: Annotated[int, typer.Option(min=1, max=10_000, help="Items at most.")] = 1_000,
    retention_days: Annotated[
        float, typer.Option(min=0.0, max=3_650.0, help="Delete unresolved items after that.")
    ] = 30.0,
    hash_only: Annotated[
        bool, typer.Option("--hash-only", help="Keep no texts, only how often they were said.")
    ] = False,
    redaction: Annotated[
        list[str] | None,
        typer.Option(
            "--redact",
            show_default="email, long_number",
            help="Cut this out of texts: email, url, uuid, long_number or none; may be repeated.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Switch the review queue on, with its settings, or off, which empties it."""
    queue: dict[str, Any] | None = None
    if state == "on":
        queue = {"items_max": items_max, "retention_days": retention_days, "hash_only": hash_only}
        if redaction is not None:
            queue["redaction"] = [each for each in redaction if each != "none"]
    with NodeClient(url, api_key) as client:
        settings = client.get("/v1/settings")
        result = client.write("PUT", "/v1/settings", {**settings, "feedback": queue})
    if as_json:
        print_json(result)
    note(f"the review queue is {state}" + ("" if queue else " and empty"))


def _items(client: NodeClient, route: str | None) -> Iterator[dict[str, Any]]:
    parameters: dict[str, str | int] = {"limit": PAGE_ITEMS, "route": route or ""}
    while True:
        page = client.get("/v1/feedback", **parameters)
        yield from page["items"]
        if page["next_after"] is None:
            return
        parameters["after"] = page["next_after"]


def _route(name: str) -> str | None:
    return None if name == NO_ROUTE else name


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")


# --- queries that no route took ------------------------------------------------------------


def list_unmatched(
    similarity: Similarity = SIMILARITY_DEFAULT,
    export: Annotated[
        Path | None,
        typer.Option(dir_okay=False, show_default=False, help="Write all of them to this file."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the queries that no route took, in groups that mean nearly the same."""
    with NodeClient(url, api_key) as client:
        clusters = _clusters(client, similarity)
    if export is not None:
        _export(export, clusters)
    if as_json:
        print_json(clusters)
        return
    print_table(
        ("group", "queries", "typical", "nearest route", "score"),
        (
            (
                str(number_of),
                str(each["size"]),
                " | ".join(text["text"] for text in each["texts"][:TEXTS_SHOWN]),
                each["nearest"]["route"] or "-",
                number(each["nearest"]["score"]),
            )
            for number_of, each in enumerate(clusters, 1)
        ),
        right=("group", "queries", "score"),
    )


def add_unmatched(
    group: GroupNumber,
    route: Annotated[str, typer.Option(help="The route that learns all texts of the group.")],
    create: NewRoute = False,
    similarity: Similarity = SIMILARITY_DEFAULT,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Add a group of unmatched queries to a route, in one write."""
    with NodeClient(url, api_key) as client:
        texts = _group(client, group, similarity)
        change = {"name": route, "utterances": texts, "create": create}
        result = client.write("POST", "/v1/revisions", {"routes": [change]})
        client.write("POST", "/-/unmatched/dismiss", {"texts": texts})
    if as_json:
        print_json({**result, "texts": texts})
    else:
        print_line("\n".join(texts))
    note(f"{result['count']} utterances added to {route} at {result['version']}")


def dismiss_unmatched(
    group: GroupNumber,
    similarity: Similarity = SIMILARITY_DEFAULT,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let the node forget a group of unmatched queries."""
    with NodeClient(url, api_key) as client:
        texts = _group(client, group, similarity)
        count = client.write("POST", "/-/unmatched/dismiss", {"texts": texts})["dismissed"]
    if as_json:
        print_json({"dismissed": count, "texts": texts})
    note(f"{count} queries are forgotten")


def _clusters(client: NodeClient, similarity: float) -> list[dict[str, Any]]:
    found = client.get("/-/unmatched")
    if not found["is_on"]:
        raise BadUsage("the node keeps no unmatched queries; see SYNAPTOROUTE_UNMATCHED_KEPT")
    times = Counter(each["text"] for each in found["queries"])
    texts = [{"text": text, "times": count} for text, count in times.most_common(CLUSTERED_MAX)]
    if not texts:
        return []
    body = {"texts": texts, "similarity_min": similarity}
    clusters: list[dict[str, Any]] = client.post("/v1/clusters", body)["clusters"]
    return clusters


def _group(client: NodeClient, group: int, similarity: float) -> list[str]:
    clusters = _clusters(client, similarity)
    if group > len(clusters):
        raise BadUsage(f"there are {len(clusters)} groups")
    return [each["text"] for each in clusters[group - 1]["texts"]]


def _export(path: Path, clusters: list[dict[str, Any]]) -> None:
    lines = [
        json.dumps({**text, "group": number_of, "nearest": each["nearest"]["route"]},
                   ensure_ascii=False)
        for number_of, each in enumerate(clusters, 1)
        for text in each["texts"]
    ]  # fmt: skip
    try:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise FileRejected(f"{path} cannot be written: {error.strerror}") from error
    note(f"{path} has {len(lines)} texts")
