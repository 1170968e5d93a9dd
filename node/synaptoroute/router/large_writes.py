"""Writes that are larger than an entry of the log: staged in pieces, committed by one entry.

The pieces are chunks of an import with an identity of its own (``core.imports``), so queries
see nothing of them.  The commit has the op_id, the request hash and the preconditions of the
write, and is decided at its place in the log like any other write.  If the author dies before
the commit, nothing becomes visible, and any node aborts the staged pieces once they are idle.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import StagedKind, staged_write_id
from synaptoroute.core.mutation import (
    KEEP,
    AddUtterances,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    RemoveUtterances,
    ReviseRoutes,
    Revision,
    vectors_of,
)
from synaptoroute.core.validation import VECTOR_ITEM_BYTES
from synaptoroute.errors import (
    CapacityExceeded,
    ClusterError,
    EncoderMismatch,
    ImportRejected,
    Overloaded,
    RouteError,
    RouteNotFound,
    SynaptoRouteError,
    TooLarge,
)
from synaptoroute.models import WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.chunks import pieces_of
from synaptoroute.tensor import Tensor

AT_ONCE_MAX: Final = 2
"""Large writes of one router at a time: a cluster has room for few open imports."""
CHUNKS_AT_ONCE: Final = 4
RETRY_SECONDS: Final = 0.1
CHARACTER_BYTES_MAX: Final = 6
"""Bytes of a character in JSON, such as ``\\u0001``."""
SEPARATOR_BYTES_MAX: Final = 4
FIELDS_BYTES_MAX: Final = 1_024
"""Bytes of the rest of a frame: its header, names of fields, preconditions."""
_RETRY_AFTER_SECONDS: Final = 1.0

Send: TypeAlias = Callable[[Mutation], Awaitable[WriteResult]]
ResultT = TypeVar("ResultT")


def staged_form(mutation: Mutation, dim: int) -> tuple[StagedKind, PutRoute] | None:
    """The route to stage for a write; None for a write that is never large."""
    match mutation:
        case PutRoute():
            return StagedKind.PUT, mutation
        case AddUtterances(name, utterances, vectors):
            return StagedKind.ADD, PutRoute(name, utterances, vectors)
        case RemoveUtterances(name, utterances):
            # A chunk needs vectors, and a removal has none.
            none = bytes(VECTOR_ITEM_BYTES * dim)
            return StagedKind.REMOVE, PutRoute(name, utterances, (none,) * len(utterances))
    return None


def new_run_id(kind: StagedKind, *, is_plain: bool) -> str:
    """Identity of the import that stages a write.

    Args:
        kind: The kind of write.
        is_plain: Stage it as an import of one route, for a log at level 1.  Such a commit
            has no preconditions and can only put.
    """
    unique = uuid.uuid4().hex
    return f"{unique}/{unique}" if is_plain else staged_write_id(kind, unique)


class LargeWrites:
    """The large writes of one router.  Used on its event loop."""

    def __init__(self, running: set[str]) -> None:
        self._running = running  # imports that this router sends; their expiry leaves them alone
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._drops: set[asyncio.Task[None]] = set()

    async def run(
        self,
        engine: EnginePort,
        run_id: str,
        part: PutRoute,
        *,
        stage: Send,
        commit: Send,
        deadline: float,
    ) -> WriteResult:
        """Stage a write and commit it.

        Args:
            engine: The engine that applies it.
            run_id: Identity of its import.
            part: The route to stage.
            stage: Sends an entry that is not the write itself, and waits until it is applied.
            commit: Sends the commit, with the identity and the preconditions of the write.
            deadline: When to give up, by the monotonic clock.

        Raises:
            RouteError: The write was rejected.
            ClusterError: It was not taken, or ``outcome`` is ``unknown``.
        """
        await self._within(self._slots.acquire(), deadline)
        self._running.add(run_id)
        # What may have to be dropped in the end.  The commit drops it by itself.
        is_open, is_undecided = True, False
        try:
            chunks = [
                ImportChunk(run_id, number, tuple(piece))
                for number, piece in enumerate(pieces_of([part]))
            ]
            await self._stage_all(run_id, chunks, stage, deadline)
            is_undecided = True
            result = await commit(ImportCommit(run_id, len(chunks)))
            is_undecided = result.status == "pending"
            # An equal write, with the same key, may have been committed instead of this one.
            staged = await asyncio.wrap_future(engine.staged_imports())
            is_open = any(each.begin.import_id == run_id for each in staged)
        except RouteError:
            is_undecided = False
            raise
        except (ClusterError, EncoderMismatch) as error:
            is_undecided = is_undecided and error.fields.get("outcome") == "unknown"
            raise
        finally:
            self._running.discard(run_id)
            self._slots.release()
            if is_open and not is_undecided:
                self._drop(stage, run_id)
        return result

    async def _stage_all(
        self, run_id: str, chunks: list[ImportChunk], stage: Send, deadline: float
    ) -> None:
        try:
            while True:
                try:
                    await stage(ImportBegin(run_id))
                    break
                except ImportRejected:  # too many imports are open
                    if time.monotonic() + RETRY_SECONDS >= deadline:
                        raise
                await asyncio.sleep(RETRY_SECONDS)
            for first in range(0, len(chunks), CHUNKS_AT_ONCE):
                await asyncio.gather(*map(stage, chunks[first : first + CHUNKS_AT_ONCE]))
        except CapacityExceeded:
            raise
        except ImportRejected as error:
            raise Overloaded(
                f"the parts of the write could not be staged: {error.message}",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
                outcome="not_taken",
            ) from error
        except (ClusterError, EncoderMismatch) as error:
            # Whatever became of a part: without the commit nothing is visible.
            error.fields["outcome"] = "not_taken"
            raise

    async def _within(self, work: Coroutine[Any, Any, ResultT], deadline: float) -> ResultT:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await work
        except TimeoutError:
            raise Overloaded(
                "other large writes of this node are still on their way",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
                outcome="not_taken",
            ) from None

    def _drop(self, stage: Send, run_id: str) -> None:
        """Drop the staged pieces in the background: the answer need not wait for that."""

        async def drop() -> None:
            # It may not be open; an open one that is left behind is aborted once it is idle.
            with suppress(SynaptoRouteError):
                await stage(ImportAbort(run_id))

        task = asyncio.get_running_loop().create_task(drop(), name="large-write-drop")
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)

    async def close(self) -> None:
        """End the tasks that drop pieces; another node drops what is left once it is idle."""
        drops = list(self._drops)
        for task in drops:
            task.cancel()
        await asyncio.gather(*drops, return_exceptions=True)


# --- patches ------------------------------------------------------------------------------


def patched_route(
    tensor: Tensor, patch: PatchRoute, fingerprint: str | None
) -> tuple[PutRoute, Revision]:
    """Make the whole route that a patch leads to; runs between two batches.

    Args:
        fingerprint: Of the encoder of the patch's vectors.

    Raises:
        RouteNotFound: There is no such route.
        EncoderMismatch: The rows have vectors of another encoder.
    """
    record = tensor.routes.get(patch.name)
    if record is None:
        raise RouteNotFound(f"there is no route {patch.name!r}")
    if fingerprint is not None and fingerprint != tensor.fingerprint:
        raise EncoderMismatch("the encoder changed during the write", outcome="not_taken")

    def vectors(slots: Sequence[int]) -> tuple[bytes, ...]:
        rows = tensor.vectors_of(np.asarray(slots, np.int64))
        return tuple(row.astype("<f4", copy=False).tobytes() for row in rows)

    description, described = patch.description, patch.description_vector
    if description is KEEP:
        slot, description = record.description_slot, record.description
        described = b"" if slot is None else vectors((slot,))[0]
    negatives, rejected = patch.negatives, patch.negative_vectors
    if negatives is KEEP:
        negatives, rejected = record.negatives, vectors(record.negative_slots)
    put = PutRoute(
        record.name,
        record.utterances,
        vectors(record.slots),
        threshold=record.threshold if patch.threshold is KEEP else patch.threshold,
        metadata=record.metadata if patch.metadata is KEEP else patch.metadata,
        payload=record.payload if patch.payload is KEEP else patch.payload,
        confidence_min=(
            record.confidence_min if patch.confidence_min is KEEP else patch.confidence_min
        ),
        description=description,
        description_vector=described,
        negatives=negatives,
        negative_vectors=rejected,
    )
    return put, record.revision


# --- sizes --------------------------------------------------------------------------------


def is_too_large(proposal: Proposal, bytes_max: int) -> bool:
    """Whether a write does not fit into one entry of at most ``bytes_max``."""
    # The bound is cheap.  Only a write near the limit is encoded here and once more later.
    bound = frame_bytes_bound(proposal.mutation)
    if bound is not None and bound <= bytes_max:
        return False
    try:
        return len(encode_proposal(proposal)) > bytes_max
    except TooLarge:
        return True


def too_large(proposal: Proposal, bytes_max: int, unless: str) -> TooLarge:
    """Make the error of a write that no entry and no staging can hold."""
    mutation = proposal.mutation
    if isinstance(mutation, ReviseRoutes):
        texts = sum(len(each.utterances) + len(each.negatives) for each in mutation.routes)
        return TooLarge(
            f"a revision takes at most {bytes_max} bytes in the log, and this one of {texts} texts"
            " takes more: send it in several",
            limit=bytes_max,
        )
    kind = type(mutation).__name__
    rest = f" {unless}" if unless else ""
    return TooLarge(f"a {kind} takes at most {bytes_max} bytes in the log{rest}", limit=bytes_max)


def frame_bytes_bound(mutation: Mutation) -> int | None:
    """Return an upper bound of the frame's size for a mutation with rows."""
    if not isinstance(mutation, PutRoute | AddUtterances | RemoveUtterances):
        return None
    texts = [mutation.name, *mutation.utterances]
    if isinstance(mutation, PutRoute):
        texts += (mutation.metadata, mutation.payload, *mutation.negatives)
        if mutation.description is not None:
            texts.append(mutation.description)
    characters = sum(map(len, texts))
    bound = FIELDS_BYTES_MAX + sum(map(len, vectors_of(mutation)))
    return bound + CHARACTER_BYTES_MAX * characters + SEPARATOR_BYTES_MAX * len(texts)
