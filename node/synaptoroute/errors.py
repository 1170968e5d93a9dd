"""Every error that the project raises on purpose.

The type says whether the caller or the operator can fix it, ``code`` is stable and
machine-readable, and the fields hold what an operator needs to act.  ``web/problems.py`` maps
codes to HTTP status.

    SynaptoRouteError
    ├── RouteError               the request is wrong: change it
    │   ├── InvalidRoute         name, utterances, threshold, metadata or payload
    │   ├── InvalidQuery         text, limit or filter of a query
    │   ├── InvalidVector        wrong dimension, not finite, not of unit length
    │   ├── TooLarge             a limit on a size, a count or a length
    │   ├── UnsupportedQuestion  a kind of question that is not answered well enough
    │   ├── RouteNotFound
    │   ├── SetNotFound          no route set or alias has the name
    │   ├── SetExists            a route set or an alias has the name already
    │   ├── SetInUse             an alias names the route set
    │   ├── AliasNotFound        no alias has the name
    │   ├── LimitExceeded        a limit of a key or of a route set
    │   ├── ImportNotFound
    │   ├── UtteranceNotFound
    │   ├── PreconditionFailed   If-Match or If-None-Match, checked when the write is applied
    │   ├── IdempotencyConflict  one key for two different requests
    │   ├── OperatorSignatureNeeded  an act without a majority that the operator must sign
    │   ├── CapacityExceeded     the tensor has no room for the utterances
    │   ├── ImportRejected       an import cannot be committed
    │   ├── ChangeNotFound       an entry that this node does not keep
    │   ├── ChangeSuperseded     a revert of what was changed again
    │   ├── NotRevertible        an entry that cannot be reverted
    │   ├── GateFailed           a promotion of a route set that is not good enough
    │   ├── NothingToRollBack    an alias without an earlier state
    │   └── NotFinalized         the write needs formats that the log does not use yet
    ├── ClusterError             the same request may succeed later
    │   ├── Overloaded           the queue is full or the deadline cannot be met
    │   ├── DeadlineExceeded     the caller's deadline passed before an answer
    │   ├── NotReady             starting, catching up, draining or stopped
    │   ├── NotCaughtUp          behind the version that the caller asked for
    │   ├── VersionLost          the version belongs to an orphaned write
    │   ├── SequencerUnavailable writes cannot be ordered: Redis is down, closed or full
    │   └── StorageUnavailable   disk full, read-only or failing; queries still work
    ├── EncoderError             the model is missing, changed or broken
    │   ├── ModelNotFound
    │   ├── ModelCorrupt
    │   └── EncoderMismatch      its fingerprint differs from that of the stored vectors
    ├── StorageCorrupt           the database is damaged and was moved aside
    ├── SchemaTooNew             a database written by a later release
    ├── ConfigError              settings that contradict each other
    ├── ForkedProcessError       a forked process uses an object of its parent
    └── ProtocolError            malformed bytes
        ├── CodecError       truncated, altered, or not a frame
        └── UnknownMutation  well-formed, of a kind that a later release added
"""

from __future__ import annotations

from typing import ClassVar


class SynaptoRouteError(Exception):
    """Base class of all errors.

    Attributes:
        code: Stable, machine-readable name of the error.
        message: One sentence for the reader.
        retry_after_seconds: When a retry may succeed; None if it cannot.
        fields: Further details by name.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, **fields: object
    ) -> None:
        # ``fields`` go into the HTTP response: no secrets, and JSON values only.
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.fields = fields


class RouteError(SynaptoRouteError):
    """The request is wrong: the caller must change it."""

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


class UnsupportedQuestion(RouteError):
    """No question of this kind is answered: the answers would not be good enough."""

    code = "unsupported_question"


class SetNotFound(RouteError):
    """No route set or alias has this name."""

    code = "set_not_found"


class SetExists(RouteError):
    """A route set or an alias has this name already."""

    code = "set_exists"


class NameTaken(RouteError):
    """The name of an alias is that of a route set, or the other way round."""

    code = "name_taken"


class SetInUse(RouteError):
    """An alias names the route set, so it cannot be deleted."""

    code = "set_in_use"


class AliasNotFound(RouteError):
    """No alias has this name."""

    code = "alias_not_found"


class LimitExceeded(RouteError):
    """A limit of an API key or of a route set; the field ``limit`` is its name."""

    code = "limit_exceeded"


class UtteranceNotFound(RouteError):
    """The route does not have this utterance."""

    code = "utterance_not_found"


class PreconditionFailed(RouteError):
    """If-Match or If-None-Match did not hold when the write was applied."""

    code = "precondition_failed"


class IdempotencyConflict(RouteError):
    """An idempotency key was used before for a different request."""

    code = "idempotency_conflict"


class OperatorSignatureNeeded(RouteError):
    """Only the operator's key allows it, and the operator has not signed it."""

    code = "operator_signature_needed"


class CapacityExceeded(RouteError):
    """The tensor has no room for the utterances."""

    code = "capacity_exceeded"


class ImportRejected(RouteError):
    """An import cannot be committed."""

    code = "import_rejected"


class NotFinalized(RouteError):
    """The write needs formats of this release; ``cluster finalize`` switches them on."""

    code = "not_finalized"


class ImportNotFound(RouteError):
    """No import of this identity is open."""

    code = "import_not_found"


class ChangeNotFound(RouteError):
    """The node keeps no entry of the log with this version."""

    code = "change_not_found"


class ChangeSuperseded(RouteError):
    """A later entry changed what a revert would restore."""

    code = "change_superseded"


class NotRevertible(RouteError):
    """An entry of this kind, or this old, cannot be reverted."""

    code = "not_revertible"


class GateFailed(RouteError):
    """A route set does not meet what a promotion demands of it."""

    code = "gate_failed"


class NothingToRollBack(RouteError):
    """An alias has no earlier state that is kept."""

    code = "nothing_to_roll_back"


class FeedbackOff(RouteError):
    """The review queue is off."""

    code = "feedback_off"


class FeedbackFull(RouteError):
    """The review queue is full."""

    code = "feedback_full"


class FeedbackNotFound(RouteError):
    """The review queue has no such item."""

    code = "feedback_not_found"


class DecisionUnknown(RouteError):
    """The node does not remember the answer that feedback names."""

    code = "decision_unknown"


class ClusterError(SynaptoRouteError):
    """The same request may succeed later."""

    code = "unavailable"


class Overloaded(ClusterError):
    """The queue is full, or the predicted wait is over the deadline."""

    code = "overloaded"


class DeadlineExceeded(ClusterError):
    """The caller's deadline passed before there was an answer."""

    code = "deadline_exceeded"


class NotReady(ClusterError):
    """The node is starting, catching up, draining or stopped."""

    code = "not_ready"


class NotCaughtUp(ClusterError):
    """The node is behind the version that the caller asked for."""

    code = "not_caught_up"


class HeadNotConfirmed(ClusterError):
    """Too few voters confirm that the head of the log is the newest."""

    code = "head_not_confirmed"


class VersionLost(ClusterError):
    """The version belongs to a write that a later epoch dropped."""

    code = "version_lost"


class SequencerUnavailable(ClusterError):
    """Writes cannot be ordered now: Redis is down, closed or full."""

    code = "sequencer_unavailable"


class StorageUnavailable(ClusterError):
    """The disk is full, read-only or failing; queries still work."""

    code = "storage_unavailable"


class EncoderError(SynaptoRouteError):
    """The model is missing, changed or broken."""

    code = "encoder_error"


class ModelNotFound(EncoderError):
    """There is no model of this name or at this path."""

    code = "model_not_found"


class ModelCorrupt(EncoderError):
    """The model file is not the expected one."""

    code = "model_corrupt"


class EncoderMismatch(EncoderError):
    """The encoder's fingerprint differs from that of the stored vectors."""

    code = "encoder_mismatch"


class StorageCorrupt(SynaptoRouteError):
    """The database is damaged; the file was moved aside, not deleted."""

    code = "storage_corrupt"


class SchemaTooNew(SynaptoRouteError):
    """The database was written by a later release."""

    code = "schema_too_new"


class ConfigError(SynaptoRouteError):
    """Settings contradict each other."""

    code = "invalid_config"


class ForkedProcessError(SynaptoRouteError):
    """A forked process uses a router, a storage or a log that its parent made."""

    code = "forked_process"


class ProtocolError(SynaptoRouteError):
    """Bytes are malformed."""

    code = "protocol_error"


class CodecError(ProtocolError):
    """A frame is truncated, altered or of an unknown format."""

    code = "codec_error"


class UnknownMutation(ProtocolError):
    """A well-formed frame of a kind that this release does not know."""

    code = "unknown_mutation"
