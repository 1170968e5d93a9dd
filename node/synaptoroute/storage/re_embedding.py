"""A database whose vectors can be replaced by another encoder's, row by row.

The new vectors stand beside the old ones until all are there; the swap is one
transaction.  Everything runs on the writing thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from synaptoroute.errors import ConfigError, StorageUnavailable
from synaptoroute.storage import generation as generations
from synaptoroute.storage.connection import translated
from synaptoroute.storage.corruption import Damaged
from synaptoroute.storage.file import DatabaseFile
from synaptoroute.storage.generation import NEXT_DIM, NEXT_FINGERPRINT, Generation
from synaptoroute.storage.loader import load
from synaptoroute.storage.records import Stored
from synaptoroute.storage.writer import write_node


class ReencodedFile(DatabaseFile):
    """The change of the encoder that a database was written with."""

    def pending_generation(self) -> Generation | None:
        """Say how far a change of the encoder has come.  Runs on the writing thread."""
        self._opened()
        assert self._writer is not None
        fingerprint = self._node.get(NEXT_FINGERPRINT)
        if fingerprint is None:
            return None
        with translated("count re-encoded rows"):
            done_slots, total_slots = generations.count_slots(self._writer)
        return Generation(fingerprint, int(self._node[NEXT_DIM]), done_slots, total_slots)

    def begin_generation(self, fingerprint: str, dim: int) -> Generation:
        """Begin to replace all vectors, or go on where a former run ended.

        A pending generation of a third encoder is dropped.

        Raises:
            ConfigError: The stored vectors are this encoder's already.
        """
        meta = self._opened()
        if (meta.fingerprint, meta.dim) == (fingerprint, dim):
            raise ConfigError(f"the stored vectors are of encoder {fingerprint} already")
        wanted = {NEXT_FINGERPRINT: fingerprint, NEXT_DIM: str(dim)}
        if any(self._node.get(key) != value for key, value in wanted.items()):
            with self._writing("begin a change of the encoder") as writer:
                writer.execute("DELETE FROM slot_next")
                for key, value in wanted.items():
                    write_node(writer, key, value)
            self._node = {**self._node, **wanted}
        return self._pending()

    def unencoded(self, rows_max: int) -> list[tuple[int, str]]:
        """Read the lowest slots that still need their new vector, with their texts."""
        self._pending()
        assert self._writer is not None
        with translated("read rows to re-encode"):
            return generations.read_unencoded(self._writer, rows_max)

    def put_encoded(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Keep new vectors: pairs of slot and float32[dim] bytes, all or none.

        Raises:
            InvalidVector: A vector has another dimension than the new encoder's.
            ConfigError: A slot has no owner.
        """
        pending = self._pending()
        with self._writing("keep re-encoded rows") as writer:
            generations.write_encoded(writer, rows, pending.dim)

    def finish_generation(self) -> Stored:
        """Swap all vectors at once and read the state back, verified.

        Afterwards the op log is empty and open imports are dropped: both held vectors
        of the former encoder.

        Raises:
            ConfigError: Rows are missing; nothing changed.
            StorageUnavailable: Nothing changed; with reason ``corrupt`` the new vectors
                were damaged and have to be made again.
        """
        pending = self._pending()
        meta = self._opened()
        try:
            snapshot = load(self.path).snapshot
            with self._writing("swap the vectors") as writer:
                snapshot, digest = generations.swap(writer, snapshot, pending)
        except Damaged as damage:
            with self._writing("drop damaged vectors") as writer:
                writer.execute("DELETE FROM slot_next")
            raise StorageUnavailable(
                f"the vectors have to be made again: {damage.reason}", reason="corrupt"
            ) from damage
        after = replace(meta, digest=digest, fingerprint=pending.fingerprint, dim=pending.dim)
        self._settle(after, pending.total_slots)
        return load(self.path)

    def _pending(self) -> Generation:
        pending = self.pending_generation()
        if pending is None:
            raise ConfigError("no change of the encoder was begun")
        return pending
