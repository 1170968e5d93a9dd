"""Write what is derived from the bundled model and ships with the encoder.

``python -m synaptoroute.encoder_graph build`` writes the graph files, ``table`` the distilled
table, ``fitted-table FOLDER`` the one that is fitted to the lines of the folder's ``.txt`` files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from synaptoroute.encoder import Encoder
from synaptoroute.encoder.static_table import ByteTable, StaticTable, distil
from synaptoroute.encoder.table_files import DISTILLED_TABLE, FITTED_TABLE, save_table
from synaptoroute.encoder_graph.build import build_files
from synaptoroute.encoder_graph.fitted_table import fit_table, read_texts


def write_table(make: Callable[[Encoder], StaticTable | ByteTable], file: Path) -> None:
    """Make a table of the bundled encoder and write it into the package."""
    encoder = Encoder()
    try:
        table = make(encoder)
    finally:
        encoder.close()
    save_table(table, file)
    file.chmod(0o644)
    sys.stdout.write(f"{file.name}: its checksum is {table.checksum}\n")


def main() -> int:
    """Write files, or compare the graphs with those that are there."""
    parser = argparse.ArgumentParser(prog="python -m synaptoroute.encoder_graph")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write the graph files that ship with the encoder")
    build.add_argument("--check", action="store_true", help="only report files that differ")
    commands.add_parser("table", help="distil the static table that ships; half a minute")
    fitted = commands.add_parser("fitted-table", help="fit the static table of `fast` to texts")
    fitted.add_argument("texts", type=Path, help="folder of .txt files, one text a line")
    given = parser.parse_args()
    if given.command == "table":
        write_table(distil, DISTILLED_TABLE.file)
        return 0
    if given.command == "fitted-table":
        texts = read_texts(given.texts)
        write_table(lambda encoder: fit_table(encoder, texts), FITTED_TABLE.file)
        return 0
    is_check = given.check
    differing = 0
    for path, content in build_files().items():
        if path.is_file() and path.read_bytes() == content:
            continue
        differing += 1
        if not is_check:
            path.write_bytes(content)
        sys.stdout.write(f"{path.name}: {'differs' if is_check else 'written'}\n")
    return 1 if is_check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
