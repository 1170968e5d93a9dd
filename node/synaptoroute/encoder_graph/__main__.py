"""``python -m synaptoroute.encoder_graph build``: write the graph files of the encoder."""

from __future__ import annotations

import argparse
import sys

from synaptoroute.encoder_graph.build import build_files


def main() -> int:
    """Write the files, or compare them with those that are there."""
    parser = argparse.ArgumentParser(prog="python -m synaptoroute.encoder_graph")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write the graph files that ship with the encoder")
    build.add_argument("--check", action="store_true", help="only report files that differ")
    is_check = parser.parse_args().check
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
