"""Write what is derived from the bundled model and ships with the encoder.

``python -m synaptoroute.encoder_graph build`` writes the graph files, ``table`` the static table.
"""

from __future__ import annotations

import argparse
import sys

from synaptoroute.encoder import Encoder
from synaptoroute.encoder.static_table import distil
from synaptoroute.encoder.table_files import SHIPPED_FILE, save_table
from synaptoroute.encoder_graph.build import build_files


def write_table() -> str:
    """Distil the table of the bundled encoder into the package; returns its checksum."""
    encoder = Encoder()
    try:
        table = distil(encoder)
    finally:
        encoder.close()
    save_table(table, SHIPPED_FILE)
    SHIPPED_FILE.chmod(0o644)
    return table.checksum


def main() -> int:
    """Write files, or compare the graphs with those that are there."""
    parser = argparse.ArgumentParser(prog="python -m synaptoroute.encoder_graph")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write the graph files that ship with the encoder")
    build.add_argument("--check", action="store_true", help="only report files that differ")
    commands.add_parser("table", help="distil the static table that ships; half a minute")
    given = parser.parse_args()
    if given.command == "table":
        sys.stdout.write(f"{SHIPPED_FILE.name}: SHIPPED_CHECKSUM is {write_table()}\n")
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
