"""Options and input files that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from synaptoroute.cli.exit_codes import FileRejected

DEFAULT_URL: Final = "http://127.0.0.1:8080"

Url = Annotated[str, typer.Option("--url", envvar="SYNAPTOROUTE_URL", help="Address of the node.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="SYNAPTOROUTE_API_KEY",
        show_default=False,
        help="API key of the node; the variable keeps it out of the process list.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="SYNAPTOROUTE_MODEL",
        show_default="the bundled model",
        help="Encoder for commands without a node: a name or a folder.",
    ),
]
EncoderPrecision = Annotated[
    Literal["auto", "float32", "int8"],  # config.Precision, whose import costs more than a command
    typer.Option(
        "--precision",
        envvar="SYNAPTOROUTE_ENCODER_PRECISION",
        help="Arithmetic of the encoder; auto is int8 for the bundled model, else float32.",
    ),
]
LabelledFile = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, help="Labelled queries: text, tab, route ('-' for none)."
    ),
]
RoutesFile = Annotated[
    Path | None,
    typer.Option(
        "--routes",
        exists=True,
        dir_okay=False,
        show_default=False,
        help="Use the routes of this file, without a node.",
    ),
]


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Read a file of limited size."""
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        raise FileRejected(f"{path} cannot be read: {error.strerror}") from error
    if len(body) > bytes_max:
        raise FileRejected(f"{path} has more than {bytes_max} bytes")
    return body
