"""A real HAProxy with the file as it is shipped, and addresses in the place of names to resolve."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from needs import require
from ports import free_port
from repository import ROOT

SHIPPED = ROOT / "deploy/haproxy/haproxy.cfg"


def configuration(nodes: Sequence[int], port: int) -> str:
    """The shipped file with ports of the loopback, and servers that need no resolver."""
    text = SHIPPED.read_text(encoding="utf-8")
    text = text.replace(":8080", f"127.0.0.1:{port}")
    text = text.replace(":8090", f"127.0.0.1:{free_port()}")
    text = text.replace(":8404", f"127.0.0.1:{free_port()}")
    text = text.replace("init-addr none resolvers names", "init-addr last,libc,none")
    servers = "\n".join(f"    server n{at} 127.0.0.1:{node}" for at, node in enumerate(nodes))
    text = re.sub(r"^ *server-template last .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *server-template coordinator .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *server-template node .*$", servers, text, flags=re.MULTILINE)


@contextmanager
def haproxy(text: str, folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Run HAProxy with a file of this text; its log is ``haproxy.log`` in the folder."""
    file = folder / "haproxy.cfg"
    file.write_text(text)
    with (folder / "haproxy.log").open("ab") as log:
        process = subprocess.Popen(
            [require("haproxy"), "-W", "-db", "-f", file],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
