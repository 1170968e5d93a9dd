"""``synaptoroute status``, ``cluster`` and ``restore``: the state of a node, and recovery."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.backups import install, read_manifest, sha256_of, verify_origin
from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, CheckFailed, ExitCode, NodeUnreachable
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, OperatorKey, Url
from synaptoroute.cli.terminal import (
    Cell,
    console,
    note,
    print_json,
    print_line,
    print_table,
    waiting,
)

_FORCED_POLL_SECONDS: Final = 0.2
CLUSTER_COLUMNS: Final = (
    "node", "state", "role", "version", "behind", "digest", "queue", "q/s", "release",
)  # fmt: skip
_STATUS_KEYS: Final = (
    "node", "version", "digest", "routes", "slots_used", "capacity_slots", "queue_requests",
    "queue_requests_max", "backlog_entries", "lanes", "model", "dim", "database", "storage_state",
)  # fmt: skip


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600.0, help="How often, with --watch.")
    ] = 1.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Show every node, as a node or a coordinator sees them."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show readiness, position, load and storage of a node.

    Exits with 1 when the node is not ready, or with --cluster when a node is silent or
    the log accepts no writes.
    """
    path, show = ("/v1/cluster", _show_cluster) if cluster else ("/-/state", _show_node)
    with NodeClient(url, api_key) as client:
        if watch:
            _watch(client, path, show, every_seconds, as_json)
            return
        state = client.get(path)
        show(url, state, as_json)
    if not (is_healthy(state) if cluster else state["state"] == "ready"):
        raise typer.Exit(ExitCode.NO)


def _watch(
    client: NodeClient,
    path: str,
    show: Callable[[str, dict[str, Any], bool], None],
    every_seconds: float,
    as_json: bool,
) -> None:
    while True:
        try:
            state = client.get(path)
        except NodeUnreachable as error:
            note(error.message)  # the node may come back
        else:
            if not as_json:
                console().clear()
            show(client.url, state, as_json)
        time.sleep(every_seconds)


def _show_node(url: str, state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    print_table((url, ""), status_rows(state))


def is_healthy(cluster: dict[str, Any]) -> bool:
    """Whether every node is live and the log accepts writes."""
    nodes = cluster["nodes"]
    return cluster["log_state"] == "open" and all(node["is_live"] for node in nodes)


def _show_cluster(url: str, cluster: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(cluster)
        return
    detail = f": {cluster['detail']}" if cluster["detail"] else ""
    size = _log_size(cluster)
    mode, key = cluster.get("trust_mode"), cluster.get("operator_key")
    is_unsigned = mode in ("authenticated", "pinned") and key == ""
    trust = (f", {mode}" if mode else "") + (", no operator key" if is_unsigned else "")
    head = cluster["head"] or "-"
    print_line(f"{url}  log {cluster['log_state']} at {head}{size}{trust}{detail}")
    print_table(CLUSTER_COLUMNS, [node_row(node) for node in cluster["nodes"]])


def _log_size(cluster: dict[str, Any]) -> str:
    """The bytes of the log and their limit; a coordinator reports them in a part of their own."""
    log = cluster.get("log", {})
    kept = log.get("kept_bytes", cluster.get("log_bytes", 0))
    limit = log.get("bytes_max", cluster.get("log_bytes_max", 0))
    return f", {kept / (1 << 20):.1f} of {limit / (1 << 20):.0f} MiB" if limit else ""


def node_row(node: dict[str, Any]) -> tuple[Cell, ...]:
    """Make the row of one node; a coordinator reports more of it than another node does."""
    is_good = node.get("health", "ok" if node["state"] == "live" else "warn") == "ok"
    state = node["state"] if node["is_live"] else f"silent {node['age_ms'] // 1_000} s"
    rate = node.get("queries_per_second")
    return (
        node.get("name") or node["node"][:8],
        (state, "ok" if is_good and node["is_live"] else "warn"),
        node["role"],
        node["version"],
        str(node["lag_entries"]),
        f"{node['digest'][:8]} {node.get('digest_state', '')}".strip(),
        str(node["queue_requests"]),
        "-" if rate is None else f"{rate:.1f}",
        node["release"],
    )


def status_rows(state: dict[str, Any]) -> list[tuple[Cell, ...]]:
    """Make the rows of one node's state; counters that are not zero come last."""
    is_ready = state["state"] == "ready"
    reasons = f" ({', '.join(state['reasons'])})" if state["reasons"] else ""
    rows: list[tuple[Cell, ...]] = [
        ("state", (state["state"] + reasons, "ok" if is_ready else "warn")),
        ("release", str(state["release"])),
        ("uptime", f"{state['uptime_seconds']:.0f} s"),
        # A node of an older release does not tell it.
        ("cpu kind", str(state.get("cpu_kind", "unknown"))),
    ]
    router = state["router"] or {}
    rows += [(key.replace("_", " "), str(router[key])) for key in _STATUS_KEYS if key in router]
    cascade = router.get("cascade") or {}
    if cascade:
        reason = f" ({cascade['reason']})" if cascade["reason"] else ""
        rows.append(("cascade", cascade["state"] + reason))
    counters = router.get("counters") or {}
    rows += [
        (key.replace("_", " "), f"{value:,}")
        for key, value in counters.items()
        if isinstance(value, int) and value
    ]
    return rows


# --- after a loss ----------------------------------------------------------------------


def recover(
    force: Annotated[
        bool,
        typer.Option("--force", help="Open the log with the nodes present, at the risk shown."),
    ] = False,
    operator_key: OperatorKey = None,
    wait_seconds: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="How long --force waits for the open log.")
    ] = 60.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a recovery and what forcing it may lose; with --force, force it.

    Where the nodes know an operator's key, forcing needs that key: it signs the cluster, the
    epoch and the last entry that is kept, as they are shown.  Exits with 1 while the log is
    closed and nothing was forced, or if it is not open in time.
    """
    with NodeClient(url, api_key) as client:
        body: dict[str, Any] = {"force": force}
        if force and operator_key is not None:
            body["warrant"] = _sign_force(operator_key, client.post("/v1/cluster/recover", {}))
        outlook = client.post("/v1/cluster/recover", body)
        if as_json:
            print_json(outlook)
        else:
            print_table(("recovery", ""), recovery_rows(outlook))
        if force and outlook["base"]:
            _wait_forced(client, wait_seconds)
            note("Forced: the log is open with the nodes that are present.")
        elif force:
            note("Nothing was forced: a majority of the voters is there.")
        elif outlook["is_needed"]:
            raise CheckFailed("the log is closed; --force opens it at the risk shown")


def _wait_forced(client: NodeClient, seconds_max: float) -> None:
    """Wait until the log is open again after it was forced."""
    give_up_at = time.monotonic() + seconds_max
    while (outlook := client.post("/v1/cluster/recover", {}))["base"]:
        if time.monotonic() >= give_up_at:
            raise CheckFailed(
                f"the log is {outlook['log_state']} {seconds_max:g} s after it was forced: "
                f"{outlook['detail'] or 'no reason is known'}"
            )
        time.sleep(_FORCED_POLL_SECONDS)


def _sign_force(operator_key: Path, outlook: dict[str, Any]) -> str:
    """Sign what a node has shown of a recovery."""
    from synaptoroute.core.mutation import Revision
    from synaptoroute.trust.identity import NodeIdentity
    from synaptoroute.trust.operator import sign_force

    if not outlook["base"]:
        return ""  # Nothing has to be forced
    epoch, seq = map(int, outlook["base"].split("."))
    identity = NodeIdentity.load(operator_key)
    base = Revision(epoch, seq)
    return sign_force(identity, outlook["namespace"], outlook["cluster_id"], base)


def recovery_rows(outlook: dict[str, Any]) -> list[tuple[Cell, ...]]:
    """Make the rows that an operator should read before forcing a recovery."""
    risk = outlook["risk"] or "nothing that a majority held"
    rows: list[tuple[Cell, ...]] = [
        ("log", (outlook["log_state"], "ok" if not outlook["is_needed"] else "warn")),
        ("detail", outlook["detail"]),
    ]
    if outlook["is_needed"]:
        rows += [
            ("kept up to", outlook["base"]),
            ("missing voters", ", ".join(outlook["missing"])),
            ("may be lost", (risk, "warn" if outlook["risk"] else "ok")),
        ]
    return rows


def unfreeze(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Open a log that was frozen.

    An operator freezes a log to stop all writes and recoveries: `HSET sr:{NAMESPACE}:meta state
    frozen` in Redis.
    """
    with NodeClient(url, api_key) as client:
        outlook = client.post("/v1/cluster/unfreeze", {})
    if as_json:
        print_json(outlook)
    else:
        print_line(f"the log is {outlook['log_state']}")


def voter(
    node: Annotated[
        str, typer.Argument(help="Identity of the node, as `status --cluster --json` shows it.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Remove the node's vote.")] = False,
    replace: Annotated[
        str, typer.Option("--replace", metavar="NODE", help="Lost voter that NODE replaces.")
    ] = "",
    operator_key: OperatorKey = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give one node a vote on recoveries, or remove it; one node at a time.

    With --replace it first gets a vote, then the lost voter loses its own.  Where the voters are
    pinned, they agree to the replacement of lost voters; anything else the operator signs.
    """
    if remove and replace:
        raise BadUsage("--remove and --replace exclude each other")
    with NodeClient(url, api_key) as client:

        def change(name: str, is_adding: bool) -> dict[str, Any]:
            body: dict[str, Any] = {"node": name, "vote": is_adding}
            if operator_key is not None:
                body["warrant"] = _sign_change(operator_key, client, name, is_adding)
            answer: dict[str, Any] = client.write("POST", "/v1/cluster/voters", body)
            return answer

        result = change(node, not remove)
        if replace and result["ack"] == "quorum":
            result = change(replace, False)
        elif replace:
            raise CheckFailed(
                f"no majority holds the vote of {node} yet: {replace} was not removed; "
                "repeat the command"
            )
    if as_json:
        print_json(result)
    else:
        print_line(f"{result['status']} at {result['version']}, held by: {result['ack']}")


def _sign_change(operator_key: Path, client: NodeClient, node: str, is_adding: bool) -> str:
    """Sign a change of the voters, with the key by which the node signs."""
    from synaptoroute.trust.identity import NodeIdentity
    from synaptoroute.trust.operator import SignedChange

    cluster = client.post("/v1/cluster/recover", {})
    seen = {each["node"]: each for each in client.get("/v1/cluster")["nodes"]}
    if is_adding and node not in seen:
        raise BadUsage(f"no node {node} reports to the cluster")
    key = seen[node]["public_key"] if is_adding else ""
    identity = NodeIdentity.load(operator_key)
    change = SignedChange(cluster["cluster_id"], is_adding, node, key)
    return change.sign(identity, cluster["namespace"], int(time.time() * 1_000))


def finalize(
    apply: Annotated[
        bool, typer.Option("--apply", help="Raise the level; without it, only show what waits.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Switch the formats of a new release on, after every node runs it."""
    with NodeClient(url, api_key) as client:
        outlook = client.post("/v1/cluster/finalize", {"apply": apply})
    if as_json:
        print_json(outlook)
    else:
        print_line(f"level {outlook['level']} of {outlook['level_known']}")
        if outlook["waiting_for"]:
            print_line(f"waiting for: {', '.join(outlook['waiting_for'])}")
    if outlook["level"] < outlook["level_known"]:
        raise typer.Exit(1)


def list_orphans(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the writes on this node that recoveries left behind."""
    with NodeClient(url, api_key) as client:
        orphans = client.get("/v1/cluster/orphans")["orphans"]
    if as_json:
        print_json(orphans)
        return
    rows: list[tuple[Cell, ...]] = [
        (each["op_id"], each["version"], each["kind"], each["route"] or "") for each in orphans
    ]
    print_table(("op_id", "version", "kind", "route"), rows)


def replay(
    op_id: Annotated[list[str], typer.Argument(show_default=False, help="Which ones; see `list`.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Repeat writes that a recovery left behind, in the given order."""
    with NodeClient(url, api_key) as client:
        for each in op_id:
            result = client.write("POST", "/v1/cluster/orphans", {"op_id": each})
            if as_json:
                print_json({"op_id": each, **result})
            else:
                print_line(f"{each} {result['status']} at {result['version']}")


# --- restoring a backup ------------------------------------------------------------------


def restore(
    backup: Annotated[Path, typer.Argument(help="The .sqlite or .json file of the backup.")],
    database: Annotated[Path, typer.Option(help="Database to create.")],
    keys_file: Annotated[
        Path | None,
        typer.Option(
            "--signing-keys-file",
            envvar="SYNAPTOROUTE_SIGNING_KEYS_FILE",
            help="Key file of the cluster that the backup is of.",
        ),
    ] = None,
    genesis_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SYNAPTOROUTE_GENESIS_FILE", help="Genesis file of the cluster, if it has one."
        ),
    ] = None,
    namespace: Annotated[
        str, typer.Option(envvar="SYNAPTOROUTE_NAMESPACE", help="Namespace of the cluster.")
    ] = "default",
    allow_unverified: Annotated[
        bool,
        typer.Option("--allow-unverified", help="Accept a backup whose origin is not proven."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a node's database from a backup, verified row by row.

    With the cluster's key file or genesis file the origin is verified, too: a majority of the
    voters must have certified the content.

    An existing file is never overwritten. A node that starts with the database serves it
    alone, or fills an empty Redis from it: then it is the only voter, and the other nodes
    join with empty databases.
    """
    file, manifest = read_manifest(backup)
    if database.exists():
        raise BadUsage(f"{database} already exists: move it away first")
    root = ""
    with waiting("Restoring ..."):
        # Before anything is written: an altered backup must leave no database behind.
        if sha256_of(file) != manifest["sha256"]:
            raise CheckFailed(f"{file} does not match its manifest: it was altered")
        if not allow_unverified:
            root = verify_origin(file, manifest, namespace, keys_file, genesis_file)
        result = install(file, manifest, database, root)
    result["is_verified"] = bool(root)
    if as_json:
        print_json(result)
        return
    print_line(f"{result['routes']} routes at {result['version']}, digest {result['digest']}")
    if not root:
        note("The origin of this backup was not verified.")
