"""``synaptoroute model list``, ``fetch``, ``check`` and ``prepare``: encoders on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import AsJson, EncoderPrecision
from synaptoroute.cli.terminal import Cell, note, print_json, print_line, print_table, waiting

CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="SYNAPTOROUTE_MODEL_CACHE_DIR",
        show_default=False,
        help="Where downloaded models are kept.",
    ),
]
INVARIANCE_MAX = 1e-5
_TEXTS = (
    "refund",
    "Where is my parcel?",
    "I was charged twice for one order and nobody answers my letters, what can I do about it?",
    "yes",
    "Please close my account and delete what you know about me.",
)


def list_(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """List the models that can be used by name; folders can be used by path."""
    from dataclasses import asdict

    from synaptoroute.encoder import list_models

    models = list_models(cache_dir)
    if as_json:
        print_json([asdict(model) for model in models])
        return
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


def fetch(
    name: Annotated[str, typer.Argument(help="Name of a model; see `model list`.")],
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Download a model once, so that nodes start without a network."""
    from synaptoroute.encoder import fetch_model

    with waiting(f"Fetching {name} ..."):
        folder = fetch_model(name, cache_dir)
    if as_json:
        print_json({"model": name, "folder": str(folder)})
    else:
        print_line(str(folder))


def check(
    name: Annotated[
        str | None, typer.Argument(show_default="the bundled model", help="A name or a folder.")
    ] = None,
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Load a model and test it: files, reference vectors, independence of the batch.

    Ends with 1 when it is not fit for use.
    """
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder

    began = time.perf_counter()
    with waiting("Loading the model ..."):
        encoder = open_encoder(name or DEFAULT_MODEL, precision=precision, cache_dir=cache_dir)
    loaded_ms = (time.perf_counter() - began) * 1_000
    try:
        report: dict[str, Any] = {
            "model": encoder.name,
            "precision": precision,
            "dim": encoder.dim,
            "max_tokens": encoder.max_tokens,
            "fingerprint": encoder.fingerprint,
            "load_ms": round(loaded_ms, 1),
            "encode_ms": round(_encode_ms(encoder), 2),
            "batch_difference": _batch_difference(encoder),
        }
    finally:
        encoder.close()
    if as_json:
        print_json(report)
    else:
        print_table(("model check", ""), ((key, str(value)) for key, value in report.items()))
    if not report["batch_difference"] < INVARIANCE_MAX:
        raise CheckFailed(
            f"a text's vector depends on its batch: by {report['batch_difference']:.2e}, "
            f"at most {INVARIANCE_MAX:g} is allowed"
        )
    note("fit for use")


def prepare(
    name: Annotated[
        str | None, typer.Argument(show_default="the bundled model", help="A name or a folder.")
    ] = None,
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    again: Annotated[bool, typer.Option("--again", help="Also where it was done before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Distil the table for the cascade from a model; needs no network.

    Takes about a millisecond a token of the vocabulary.
    """
    from synaptoroute.cascade import distil, load_table, save_table, table_file
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder
    from synaptoroute.errors import ModelCorrupt

    with waiting("Loading the model ..."):
        encoder = open_encoder(name or DEFAULT_MODEL, precision=precision, cache_dir=cache_dir)
    began = time.perf_counter()
    try:
        path = table_file(encoder.fingerprint, cache_dir)
        try:
            table = None if again else load_table(path, encoder.fingerprint)
        except ModelCorrupt:
            table = None  # that is what this command repairs
        is_new = table is None
        if table is None:
            with waiting("Distilling ..."):
                table = distil(encoder)  # type: ignore[arg-type]  # says itself who cannot
            save_table(table, path)
    finally:
        encoder.close()
    report = {
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
        "table": table.checksum,
        "tokens": len(table.rows),
        "size_bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - began, 1),
        "is_new": is_new,
        "file": str(path),
    }
    if as_json:
        print_json(report)
    else:
        print_table(("model prepare", ""), ((key, str(value)) for key, value in report.items()))


def _encode_ms(encoder: Any) -> float:
    """Median time of one short text, alone."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        encoder.encode(["Where is my parcel?"])
        times.append((time.perf_counter() - began) * 1_000)
    return sorted(times)[2]


def _batch_difference(encoder: Any) -> float:
    """Largest difference between texts encoded together and alone."""
    import numpy as np

    together = encoder.encode(_TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in _TEXTS])
    return float(np.abs(together - alone).max())
