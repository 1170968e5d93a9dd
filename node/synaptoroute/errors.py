"""Every error the project raises on purpose.

The type says who can mend it, ``code`` is stable and machine-readable, and the
fields say what a person needs to act.  One table in ``web/problems.py`` maps
codes to HTTP status.

    SynaptoRouteError
    ├── RouteError               the caller's fault: change the request
    │   ├── InvalidRoute         name, utterances, threshold, metadata or payload
    │   ├── InvalidQuery         text, limit or filter of a query
    │   ├── InvalidVector        wrong dimension, not finite, not of unit length
    │   ├── TooLarge             a limit on a size, a count or a length
    │   ├── RouteNotFound
    │   ├── UtteranceNotFound
    │   ├── PreconditionFailed   If-Match or If-None-Match, judged at apply time
    │   ├── IdempotencyConflict  one key, two different requests
    │   ├── CapacityExceeded     the tensor has no room for the utterances
    │   └── ImportRejected       an import that cannot be committed as it stands
    ├── ClusterError             the world's fault: the same request may succeed later
    │   ├── Overloaded           the queue is full or the deadline cannot be met
    │   ├── DeadlineExceeded     the caller's deadline passed before an answer
    │   ├── NotReady             starting, catching up, draining or stopped
    │   ├── NotCaughtUp          behind the version that the caller asked for
    │   ├── VersionLost          the version belongs to an orphaned write
    │   ├── SequencerUnavailable no order for writes: Redis away, closed or full
    │   └── StorageUnavailable   disk full, read-only or failing: queries go on
    ├── EncoderError             the model is missing, changed or broken
    │   ├── ModelNotFound
    │   ├── ModelCorrupt
    │   └── EncoderMismatch      another fingerprint than the stored vectors'
    ├── StorageCorrupt           the database cannot be trusted; it was moved aside
    ├── SchemaTooNew             a database written by a later release
    ├── ConfigError              settings that contradict each other
    └── ProtocolError            bytes that are not what they claim to be
        ├── CodecError       truncated, altered, or not a frame
        └── UnknownMutation  sound, but of a kind that a later release introduced
"""

from __future__ import annotations

from typing import ClassVar


class SynaptoRouteError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable, machine-readable name of the error.
        message: One sentence for a person.
        retry_after_seconds: When trying again may help; None where it cannot.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, **fields: object
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.fields = fields


class RouteError(SynaptoRouteError):
    """The caller's fault: change the request."""

    code = "invalid_request"


class InvalidRoute(RouteError):
    """A route's name, utterances, threshold, metadata or payload is malformed."""

    code = "invalid_route"


class InvalidQuery(RouteError):
    """A query's text, limit or filter is malformed."""

    code = "invalid_query"


class InvalidVector(RouteError):
    """A vector has the wrong dimension, is not finite or not of unit length."""

    code = "invalid_vector"


class TooLarge(RouteError):
    """A size, count or length is over its limit."""

    code = "too_large"


class RouteNotFound(RouteError):
    """No route has this name."""

    code = "route_not_found"


class UtteranceNotFound(RouteError):
    """The route does not have this utterance."""

    code = "utterance_not_found"


class PreconditionFailed(RouteError):
    """If-Match or If-None-Match did not hold at the write's place in the order."""

    code = "precondition_failed"


class IdempotencyConflict(RouteError):
    """An idempotency key was used before for a different request."""

    code = "idempotency_conflict"


class CapacityExceeded(RouteError):
    """The tensor has no room for the utterances."""

    code = "capacity_exceeded"


class ImportRejected(RouteError):
    """An import cannot be committed as it stands."""

    code = "import_rejected"


class ClusterError(SynaptoRouteError):
    """The world's fault: the same request may succeed later."""

    code = "unavailable"


class Overloaded(ClusterError):
    """The queue is full, or the predicted wait is over the deadline."""

    code = "overloaded"


class DeadlineExceeded(ClusterError):
    """The caller's deadline passed before an answer was there."""

    code = "deadline_exceeded"


class NotReady(ClusterError):
    """The node is starting, catching up, draining or stopped."""

    code = "not_ready"


class NotCaughtUp(ClusterError):
    """The node is still behind the version that the caller asked for."""

    code = "not_caught_up"


class VersionLost(ClusterError):
    """The version belongs to a write that a later epoch orphaned."""

    code = "version_lost"


class SequencerUnavailable(ClusterError):
    """Writes have no order now: Redis is away, closed or full."""

    code = "sequencer_unavailable"


class StorageUnavailable(ClusterError):
    """The disk is full, read-only or failing; queries go on."""

    code = "storage_unavailable"


class EncoderError(SynaptoRouteError):
    """The model is missing, changed or broken."""

    code = "encoder_error"


class ModelNotFound(EncoderError):
    """No model of this name or at this path."""

    code = "model_not_found"


class ModelCorrupt(EncoderError):
    """The model file is not the one that was expected."""

    code = "model_corrupt"


class EncoderMismatch(EncoderError):
    """The encoder's fingerprint is not that of the stored vectors."""

    code = "encoder_mismatch"


class StorageCorrupt(SynaptoRouteError):
    """The database cannot be trusted; the file was moved aside, not deleted."""

    code = "storage_corrupt"


class SchemaTooNew(SynaptoRouteError):
    """The database was written by a later release."""

    code = "schema_too_new"


class ConfigError(SynaptoRouteError):
    """Settings contradict each other."""

    code = "invalid_config"


class ProtocolError(SynaptoRouteError):
    """Bytes are not what they claim to be."""

    code = "protocol_error"


class CodecError(ProtocolError):
    """A frame is truncated, altered or of an unknown format."""

    code = "codec_error"


class UnknownMutation(ProtocolError):
    """A sound frame of a kind that this release does not know."""

    code = "unknown_mutation"
