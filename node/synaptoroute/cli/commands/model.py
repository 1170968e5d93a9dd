"""``synaptoroute model``: encoders on this machine, and another one for a database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.exit_codes import BadUsage, CheckFailed
from synaptoroute.cli.options import AsJson, EncoderPrecision
from synaptoroute.cli.terminal import (
    Cell,
    note,
    print_json,
    print_line,
    print_table,
    progress,
    waiting,
)

if TYPE_CHECKING:
    from synaptoroute.config import Precision
    from synaptoroute.encoder import TextEncoder
    from synaptoroute.encoder.measuring import OwnRoutes
    from synaptoroute.encoder.packed_model import PackedModel
    from synaptoroute.encoder.prepared import Prepared

CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="SYNAPTOROUTE_MODEL_CACHE_DIR",
        show_default=False,
        help="Folder of downloaded models.",
    ),
]
ModelName = Annotated[
    str | None, typer.Argument(show_default="the bundled model", help="A name or a folder.")
]
INVARIANCE_MAX: Final = 1e-5
_TEXTS: Final = (
    "refund",
    "Where is my parcel?",
    "I was charged twice for one order and nobody answers my letters, what can I do about it?",
    "yes",
    "Please close my account and delete what you know about me.",
)


def list_(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """List the presets, the models that can be used by name, and those that were prepared here.

    Folders can be used by path.
    """
    from synaptoroute.encoder import ModelSummary, list_models
    from synaptoroute.encoder.packed_model import list_packed
    from synaptoroute.encoder.prepared import list_prepared

    models = list_models(cache_dir)
    presets = _presets()
    prepared = list(list_prepared(cache_dir))
    packed = list_packed(cache_dir)
    if as_json:
        names = {preset["model"]: preset["preset"] for preset in presets}
        figures = {preset["model"]: preset["measured"] for preset in presets}
        print_json(
            [
                {
                    **asdict(model),
                    "preset": names.get(model.name),
                    "measured": figures.get(model.name),
                }
                for model in models
            ]
            + [
                {
                    **dict.fromkeys((*ModelSummary.__slots__, "preset")),
                    "name": each.folder or each.model,
                    "is_local": True,
                    "measured": asdict(each.measured),
                    **_summary(each),
                }
                for each in prepared
            ]
            + [
                {
                    **dict.fromkeys((*ModelSummary.__slots__, "preset", "measured")),
                    "name": each.model,
                    "is_local": True,
                    **_graph_summary(each),
                }
                for each in packed
            ]
        )
        return
    _show_presets(presets)
    rows: list[tuple[Cell, ...]] = [
        (
            model.name,
            str(model.dim),
            f"{model.size_bytes / 1e6:,.0f} MB",
            model.licence,
            ("yes", "ok") if model.is_local else ("no", "no"),
        )
        for model in models
    ]
    print_table(("model", "dim", "size", "licence", "on this machine"), rows, right=("dim", "size"))
    if prepared:
        _show_prepared(prepared)
    if packed:
        _show_packed(packed)


def _show_packed(packed: Sequence[PackedModel]) -> None:
    """Show which models run without padding, and why others do not."""
    rows: list[tuple[Cell, ...]] = []
    for each in packed:
        figures = "-"
        if each.check is not None:
            check = each.check
            figures = f"cosine {check.cosine_min:.4f}, {check.speedup:.2f}x in batches"
        rows.append((each.model, each.precision, each.reason or "packed", figures))
    print_table(("model", "precision", "graph", "compared with the model's file"), rows)


def _show_prepared(prepared: Sequence[Prepared]) -> None:
    """Show what ``model prepare`` measured here, beside the default on the same texts."""
    rows: list[tuple[Cell, ...]] = []
    for each in prepared:
        usual = each.reference_accuracy
        accuracy = ", ".join(
            f"{name} {share:.3f} (default {usual[name]:.3f})"
            for name, share in each.measured.accuracy.items()
        )
        speeds = each.measured.lone_texts_per_second, each.measured.batch_texts_per_second
        cost = " / ".join(f"{speed:,.0f}" for speed in speeds)
        tags = " ".join(each.understood_languages)
        rows.append((each.folder or each.model, accuracy, cost, tags or "none"))
    columns = ("prepared model", "accuracy", "texts/s alone / in batches", "languages")
    print_table(columns, rows)


def _presets() -> list[dict[str, Any]]:
    from synaptoroute.encoder.presets import PRESETS, measured

    found = []
    for preset in PRESETS:
        figures = measured(preset.model)
        found.append(
            {
                "preset": preset.name,
                "model": preset.model,
                "purpose": preset.purpose,
                "languages": list(preset.languages),
                "needs": preset.needs,
                "measured": None if figures is None else asdict(figures),
            }
        )
    return found


def _show_presets(presets: list[dict[str, Any]]) -> None:
    rows: list[tuple[Cell, ...]] = []
    for preset in presets:
        figures = preset["measured"]
        accuracy = cost = "not measured"
        if figures is not None:
            accuracy = " ".join(f"{share:.3f}" for share in figures["accuracy"].values())
            cost = (
                f"{figures['lone_texts_per_second']:,.0f} / "
                f"{figures['batch_texts_per_second']:,.0f}"
            )
        rows.append((preset["preset"], preset["purpose"], accuracy, cost, preset["needs"] or "-"))
    columns = ("preset", "for", "accuracy", "texts/s alone / in batches", "needs")
    print_table(columns, rows, right=("accuracy", "texts/s alone / in batches"))
    known = next((preset["measured"] for preset in presets if preset["measured"]), None)
    if known is not None:
        sets = " and ".join(known["accuracy"])
        print_line(f"accuracy: {sets}, ten utterances a route; one thread of {known['cpu']}")


def fetch(
    name: Annotated[str, typer.Argument(help="Name of a model; see `model list`.")],
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Download a model once, so that nodes start without a network."""
    from synaptoroute.encoder import fetch_model

    with waiting(f"Downloading {name} ..."):
        folder = fetch_model(name, cache_dir)
    if as_json:
        print_json({"model": name, "folder": str(folder)})
    else:
        print_line(str(folder))


def check(
    name: ModelName = None,
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Load a model and test it: files, reference vectors, independence of the batch.

    Exits with 1 when the model cannot be used.
    """
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder

    started = time.perf_counter()
    with waiting("Loading the model ..."):
        encoder = open_encoder(name or DEFAULT_MODEL, precision=precision, cache_dir=cache_dir)
    load_ms = (time.perf_counter() - started) * 1_000
    try:
        report: dict[str, Any] = {
            "model": encoder.name,
            "precision": precision,
            "dim": encoder.dim,
            "max_tokens": encoder.max_tokens,
            "fingerprint": encoder.fingerprint,
            **_graph_state(encoder),
            "load_ms": round(load_ms, 1),
            "encode_ms": round(_encode_ms(encoder), 2),
            "batch_difference": _batch_difference(encoder),
        }
    finally:
        encoder.close()
    _show_report("model check", report, as_json)
    if not report["batch_difference"] < INVARIANCE_MAX:
        raise CheckFailed(
            f"the vector of a text depends on its batch: it differs by "
            f"{report['batch_difference']:.2e}, at most {INVARIANCE_MAX:g} is allowed"
        )
    note("the model can be used")


def _graph_state(encoder: Any) -> dict[str, str]:
    """Say how the graph of an encoder runs; empty for an encoder without one."""
    reason = getattr(encoder, "why_padded", None)
    if reason is None:
        return {}
    return {"graph": "padded", "why_padded": reason} if reason else {"graph": "packed"}


def _encode_ms(encoder: Any) -> float:
    """Return the median time to encode one short text alone."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        encoder.encode(["Where is my parcel?"])
        times.append((time.perf_counter() - started) * 1_000)
    return sorted(times)[2]


def _batch_difference(encoder: Any) -> float:
    """Return the largest difference between texts encoded together and alone."""
    import numpy as np

    together = encoder.encode(_TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in _TEXTS])
    return float(np.abs(together - alone).max())


def prepare(
    name: ModelName = None,
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    routes: Annotated[
        Path | None,
        typer.Option(
            "--routes", show_default=False, help="Routes of your own to measure the model on."
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            show_default=False,
            help="Text before every query and utterance, for a folder; `auto` tries those that "
            "the model declares.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure and distil again what exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model, pack its graph and distil the cascade's table; needs no network.

    A packed graph runs texts of unequal length without padding. It is used if its vectors are
    those of the model; otherwise the reason is shown. Makes the numbers of the confidence that
    hold before the first fit, and finds the languages that the model understands. Takes some
    seconds, and about a millisecond of one core for each token of the vocabulary, on all cores.
    """
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder
    from synaptoroute.encoder.measuring import OwnRoutes

    model = name or DEFAULT_MODEL
    own = None
    if routes is not None:
        from synaptoroute.cli.route_files import read_route_file

        content = read_route_file(routes)
        own = OwnRoutes(routes.name, {each.name: each.utterances for each in content.routes})
    if prefix is not None:
        _use_prefix(model, prefix, precision)
    packed = _packed(model, precision, cache_dir, again)
    with waiting("Loading the model ..."):
        encoder = open_encoder(model, precision=precision, cache_dir=cache_dir)
    try:
        found = _measured(encoder, model, cache_dir, own, again)
        report: dict[str, Any] = {"model": encoder.name, "fingerprint": encoder.fingerprint}
        report |= {} if packed is None else _graph_summary(packed)
        report |= {"numbers": "shipped"} if found is None else _summary(found)
        report |= _distilled(encoder, cache_dir, again)
    finally:
        encoder.close()
    _show_report("model prepare", report, as_json)
    if found is not None and not found.understood_languages:
        note("no language of the table is understood: texts in every script are compared")


def _packed(
    model: str, precision: Precision, cache_dir: Path | None, again: bool
) -> PackedModel | None:
    """Pack the graph of a model, unless that was done; None for a model without a file of one."""
    from synaptoroute.encoder import fast_encoder, universal_encoder
    from synaptoroute.encoder.catalogue import find_recipe
    from synaptoroute.encoder.hash_encoder import NAME_PATTERN
    from synaptoroute.encoder.packed_session import offers_int8
    from synaptoroute.encoder.presets import resolve
    from synaptoroute.encoder.recipe import verify_files
    from synaptoroute.encoder_graph.packing import pack_model

    without_graph = (*fast_encoder.MODELS, universal_encoder.NAME)
    if resolve(model) in without_graph or NAME_PATTERN.fullmatch(model):
        return None
    with waiting("Loading the model ..."):
        recipe = find_recipe(model, cache_dir)
        digest = verify_files(recipe).model_sha256
    if precision != "float32" and offers_int8(recipe, digest, ["CPUExecutionProvider"]):
        return None  # the bundled model ships its graph
    with waiting("Packing ..."):
        return pack_model(
            recipe,
            "int8" if precision == "int8" else "float32",
            cache_dir,
            beside=Path(model) if Path(model).is_dir() else None,
            again=again,
        )


def _graph_summary(packed: PackedModel) -> dict[str, Any]:
    """The part of the report that says how the graph runs, and what it was compared with."""
    summary: dict[str, Any] = {
        "precision": packed.precision,
        "graph": "packed" if packed.is_used else "padded",
    }
    if packed.reason:
        summary["why_padded"] = packed.reason
    if packed.check is not None:
        check = packed.check
        summary |= {
            "cosine_min": check.cosine_min,
            "same_neighbour": check.agreement,
            "accuracy_of_graph": check.accuracy,
            "accuracy_of_file": check.accuracy_of_file,
            "batch_invariant": check.is_invariant,
            "speed_alone": check.lone_speedup,
            "speed_in_batches": check.speedup,
        }
    return summary


def _use_prefix(model: str, prefix: str, precision: Precision) -> None:
    """Write a prefix beside a model; the best of those that it declares for ``auto``."""
    from synaptoroute.encoder import Encoder
    from synaptoroute.encoder.local import declared_prefixes, write_prefix
    from synaptoroute.encoder.measuring import best_prefix

    folder = Path(model)
    if not folder.is_dir():
        raise BadUsage("--prefix is for a model in a folder; the others declare theirs")
    if prefix == "auto":
        encoders: dict[str, TextEncoder] = {}
        with waiting("Trying prefixes ..."):
            for each in ("", *declared_prefixes(folder)):
                encoders[each] = Encoder(
                    folder, precision=precision, query_prefix=each, utterance_prefix=each
                )
            prefix = best_prefix(encoders)
        for encoder in encoders.values():
            encoder.close()
        note(f"the prefix is {prefix!r}, of {len(encoders)} that were tried")
    write_prefix(folder, prefix)


def _measured(
    encoder: TextEncoder,
    model: str,
    cache_dir: Path | None,
    own: OwnRoutes | None,
    again: bool,
) -> Prepared | None:
    """Measure a model, unless that was done or its numbers ship; keep what was found."""
    from synaptoroute.decision.starting_numbers import shipped_tables_of
    from synaptoroute.encoder import open_encoder
    from synaptoroute.encoder.measuring import measure
    from synaptoroute.encoder.prepared import (
        cache_folder,
        file_name,
        load_prepared,
        save_prepared,
    )

    folder = Path(model).resolve() if Path(model).is_dir() else None
    known: Prepared | None = getattr(encoder, "prepared", None)
    is_kept = own is None and not again
    has_shipped = folder is None and shipped_tables_of(encoder.fingerprint) is not None
    if is_kept and known is None and has_shipped:
        return None
    if is_kept and known is not None:
        found = known
    else:
        reference = open_encoder()
        try:
            with waiting("Measuring ..."):
                found = measure(encoder, reference, str(folder or ""), own)
        finally:
            reference.close()
        save_prepared(found, cache_folder(cache_dir) / file_name(found.fingerprint))
    beside = None if folder is None else folder / file_name(found.fingerprint)
    if beside is not None and not (is_kept and load_prepared(beside)):
        try:
            save_prepared(found, beside)
        except OSError as error:
            note(f"{folder} cannot be written ({error.strerror}): copy the file of the cache there")
    return found


def _summary(found: Prepared) -> dict[str, Any]:
    """The part of the report that says what was measured."""
    from synaptoroute.encoder.measuring import measured_scripts

    read, foreign = measured_scripts(found.languages)
    return {
        "numbers": "measured",
        "languages": list(found.understood_languages),
        "scripts": sorted(read),
        "foreign_scripts": [] if found.scripts is None else sorted(foreign),
        "accuracy": dict(found.measured.accuracy),
        "accuracy_of_default": dict(found.reference_accuracy),
        "lone_texts_per_second": found.measured.lone_texts_per_second,
        "batch_texts_per_second": found.measured.batch_texts_per_second,
    }


def _distilled(encoder: Any, cache_dir: Path | None, again: bool) -> dict[str, Any]:
    """Distil the cascade's table, unless one ships or exists; the report of it."""
    from synaptoroute.cascade.table_store import NO_TABLE, WHY_NO_TABLE, why_no_table
    from synaptoroute.config import cpu_limit
    from synaptoroute.encoder.parallel import ParallelEncoder
    from synaptoroute.encoder.static_table import distil
    from synaptoroute.encoder.table_files import (
        DISTILLED_TABLE,
        load_table,
        save_table,
        shipped_table,
        table_file,
    )
    from synaptoroute.errors import ModelCorrupt

    if (reason := why_no_table(encoder)) != NO_TABLE:
        return {"table": None, "why_no_table": WHY_NO_TABLE[reason]}
    started = time.perf_counter()
    path, table = DISTILLED_TABLE.file, shipped_table(encoder.fingerprint)
    if table is None:
        path = table_file(encoder.fingerprint, cache_dir)
        with suppress(ModelCorrupt):  # a damaged table is made again
            table = None if again else load_table(path, encoder.fingerprint)
    is_new = table is None
    if table is None:
        with waiting("Distilling ..."):
            table = distil(ParallelEncoder(encoder, cpu_limit()))
        save_table(table, path)
    return {
        "table": table.checksum,
        "tokens": len(table.rows),
        "size_bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - started, 1),
        "is_new": is_new,
        "file": str(path),
    }


def _show_report(title: str, report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        print_table((title, ""), ((key, str(value)) for key, value in report.items()))


def migrate(
    database: Annotated[
        Path,
        typer.Option(
            envvar="SYNAPTOROUTE_DATABASE", dir_okay=False, help="The node's SQLite file."
        ),
    ],
    model: Annotated[
        str, typer.Option(envvar="SYNAPTOROUTE_MODEL", help="The new encoder: a name or a folder.")
    ],
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Re-encode all utterances of a database with another encoder or precision.

    The node must be stopped. The new vectors are written beside the old ones and replace
    them in one transaction at the end. A run that is killed leaves the database as it was,
    and the next run continues from there.
    """
    from synaptoroute.cli.migration import migrate_database
    from synaptoroute.encoder import open_encoder

    with waiting("Loading the model ..."):
        encoder = open_encoder(model, precision=precision, cache_dir=cache_dir)
    try:
        with progress("Re-encoding", None) as step:
            done = migrate_database(database, encoder, step)
    finally:
        encoder.close()
    if as_json:
        print_json(asdict(done))
        return
    if done.is_unchanged:
        note(f"{database} already holds vectors of {encoder.name}")
        return
    if done.resumed_slots:
        note(f"{done.resumed_slots} utterances were re-encoded by an earlier run")
    print_line(f"{done.total_slots} utterances now have vectors of {encoder.name}")
    print_line(f"from {done.former_fingerprint[:16]} to {done.fingerprint[:16]}")
