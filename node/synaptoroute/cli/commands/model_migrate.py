"""``synaptoroute model migrate``: another encoder for an existing database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from synaptoroute.cli.commands.model import CacheDir
from synaptoroute.cli.options import AsJson, EncoderPrecision
from synaptoroute.cli.terminal import note, print_json, print_line, progress, waiting


def migrate(
    database: Annotated[
        Path,
        typer.Option(
            envvar="SYNAPTOROUTE_DATABASE", dir_okay=False, help="The node's SQLite file."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(envvar="SYNAPTOROUTE_MODEL", help="The new encoder: a name or a folder."),
    ],
    precision: EncoderPrecision = "auto",
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Re-encode all utterances of a database with another encoder or precision.

    The node must be stopped. The new vectors are written beside the old ones and take
    their place in one transaction at the end: a run that is killed anywhere leaves the
    database as it was, and the next run goes on where it ended.
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
        note(f"{database} holds vectors of {encoder.name} already")
        return
    if done.resumed_slots:
        note(f"{done.resumed_slots} utterances had been re-encoded by a former run")
    print_line(f"{done.total_slots} utterances now have vectors of {encoder.name}")
    print_line(f"from {done.former_fingerprint[:16]} to {done.fingerprint[:16]}")
