"""The encoder of a node, loaded while the rest of the program is still being imported.

Opening the model is half a second of native code that needs no interpreter lock, and
importing the server is a second of Python: side by side a node is ready that much
sooner.  Source: measured in the container, docs/operations.md.
Rule: this module imports nothing of the server; the import of the server is what runs
beside the loading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from synaptoroute.cascade import StaticTable, load_table, shipped_table, table_file
from synaptoroute.config import NodeConfig, Precision
from synaptoroute.encoder import TextEncoder, open_encoder
from synaptoroute.encoder.table_files import keep_table, kept_tables
from synaptoroute.errors import ModelCorrupt
from synaptoroute.web.logs import server_log

LoadEncoder = Callable[[], TextEncoder]


def load_encoder(config: NodeConfig) -> TextEncoder:
    """Open the encoder that the settings name; blocks for half a second or a download.

    Raises:
        ConfigError: A provider or the precision is not available.
        ModelNotFound: No such model.
        ModelCorrupt: A file is not the expected one.
        EncoderError: The download failed, or the model does not work here.
    """
    return _open(config, config.model, config.encoder_precision)


def load_spare(config: NodeConfig) -> TextEncoder:
    """Open the encoder that the cluster may change to; raises as ``load_encoder`` does."""
    return _open(config, config.next_model, config.next_encoder_precision)


def load_tables(config: NodeConfig, encoders: Sequence[TextEncoder]) -> list[StaticTable]:
    """Read the tables of these encoders; a damaged one counts as none.

    The one that ships comes first, so that all nodes of a release have the same.  Then come the
    table that an operator prepared, and the one of ``table_dir``.  Those that this node distilled
    or read from a peer are there as well: a calibration may name them.
    """
    found: list[StaticTable] = []
    for encoder in encoders:
        table = _load_table(config, encoder.fingerprint)
        found += [] if table is None else [table]
        for path in kept_tables(encoder.fingerprint, config.model_cache_dir):
            kept = _load_kept(path, encoder.fingerprint)
            found += [] if kept is None else [kept]
    return found


def table_keeper(config: NodeConfig) -> Callable[[StaticTable], None]:
    """Make what writes a table to the cache folder; without room the node goes on without it."""

    def keep(table: StaticTable) -> None:
        try:
            keep_table(table, config.model_cache_dir)
        except OSError as error:
            server_log().warning("static_table_not_kept", detail=str(error))

    return keep


def _load_kept(path: Path, fingerprint: str) -> StaticTable | None:
    try:
        return load_table(path, fingerprint)
    except ModelCorrupt as error:
        server_log().warning("static_table_refused", detail=str(error))
        return None


def _load_table(config: NodeConfig, fingerprint: str) -> StaticTable | None:
    paths = [table_file(fingerprint, config.model_cache_dir)]
    if config.table_dir is not None:
        paths.append(table_file(fingerprint, config.table_dir))
    tries = [
        partial(shipped_table, fingerprint),
        *(partial(load_table, path, fingerprint) for path in paths),
    ]
    for load in tries:
        try:
            table = load()
        except ModelCorrupt as error:
            server_log().warning("static_table_refused", detail=str(error))
            continue
        if table is not None:
            return table
    return None


def _open(config: NodeConfig, model: str, precision: Precision) -> TextEncoder:
    return open_encoder(
        model,
        precision=precision,
        providers=[name.strip() for name in config.providers.split(",") if name.strip()],
        cache_dir=config.model_cache_dir,
    )


def begin_loading(config: NodeConfig) -> LoadEncoder:
    """Start to load the encoder in a thread of its own."""
    loader = ThreadPoolExecutor(1, thread_name_prefix="encoder-load")
    loading = loader.submit(load_encoder, config)
    loader.shutdown(wait=False)
    return loading.result
