"""``synaptoroute tls new``: certificates for trials, from an authority in a folder."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.options import AsJson
from synaptoroute.cli.terminal import print_json, print_line
from synaptoroute.private_files import make_private_folder


def new(
    name: Annotated[
        list[str],
        typer.Option(show_default=False, help="Host name or address; several are allowed."),
    ],
    folder: Annotated[Path, typer.Option(help="Where tls.crt and tls.key go.")] = Path("tls"),
    authority: Annotated[
        Path | None,
        typer.Option(
            show_default="the same folder", help="Folder of ca.crt and ca.key; made if empty."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Lifetime.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Make a certificate, and the first time an authority, for trials and tests.

    A node that uses the files takes the new ones within a second.
    """
    # Imported here: no other command needs it.
    from synaptoroute.cli.authority import Authority

    home = authority or folder
    try:
        make_private_folder(home)
        make_private_folder(folder)
        issuer = Authority.open(home)
        cert, key = issuer.issue(folder, name, validity=timedelta(days=days))
    except (OSError, ValueError) as error:
        raise FileRejected(f"the certificate cannot be made: {error}") from error
    made = {"cert": str(cert), "key": str(key), "ca": str(home / "ca.crt")}
    if as_json:
        print_json(made)
        return
    print_line(f"--tls-cert {cert} --tls-key {key} --tls-client-ca {made['ca']}")
