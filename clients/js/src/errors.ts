/** Errors of a client: one class for each kind of answer, with the stable code of the server. */

import type { Evidence } from "./types.js";

/** Whether a failed write may still be applied. */
export type Outcome = "not_taken" | "unknown";

/** A problem document (RFC 9457) of a node. */
export interface Problem {
  code: string;
  detail: string;
  status?: number;
  errors?: { field: string; message: string }[];
  limit?: number;
  current?: string;
  outcome?: Outcome;
  [field: string]: unknown;
}

export interface ErrorFields {
  code?: string | undefined;
  status?: number | undefined;
  retryAfterSeconds?: number | undefined;
  outcome?: Outcome | undefined;
  requestId?: string | undefined;
  node?: string | undefined;
  problem?: Problem | undefined;
}

/** A call failed. */
export class ClientError extends Error {
  /** Stable, machine-readable name of the error. */
  readonly code: string;
  /** HTTP status; undefined if no node answered. */
  readonly status: number | undefined;
  /** When the server asks to try again. */
  readonly retryAfterSeconds: number | undefined;
  /** Name of the request in the log of the node. */
  readonly requestId: string | undefined;
  /** Identity of the node that answered. */
  readonly node: string | undefined;
  /** The problem document. */
  readonly problem: Problem | undefined;
  /**
   * Of a failed write: `not_taken`, or `unknown` if it may still be applied. The same call with
   * the same `idempotencyKey` settles it.
   */
  outcome: Outcome | undefined;
  /** Key with which a write was sent. */
  idempotencyKey: string | undefined;

  constructor(message: string, fields: ErrorFields = {}, fallback = "client_error") {
    super(message);
    this.name = new.target.name;
    this.code = fields.code ?? fallback;
    this.status = fields.status;
    this.retryAfterSeconds = fields.retryAfterSeconds;
    this.requestId = fields.requestId;
    this.node = fields.node;
    this.problem = fields.problem;
    this.outcome = fields.outcome;
  }

  /** What the gate of a promotion measured, of `gate_failed`. */
  get evidence(): Evidence | undefined {
    return this.problem?.["evidence"] as Evidence | undefined;
  }
}

/** An option or an address cannot be used. */
export class ConfigError extends ClientError {
  constructor(message: string) {
    super(message, {}, "invalid_config");
  }
}

/** No address answered, or the answer was lost. */
export class ConnectionFailed extends ClientError {
  constructor(message: string) {
    super(message, {}, "connection_failed");
  }
}

/** The time of the call passed before there was an answer. */
export class CallTimeout extends ClientError {
  constructor(message: string, fields: ErrorFields = {}) {
    super(message, fields, "call_timeout");
  }
}

/** What answered is not a node, or its answer cannot be read. */
export class UnexpectedAnswer extends ClientError {
  constructor(message: string, fields: ErrorFields = {}) {
    super(message, fields, "unexpected_answer");
  }
}

/** A node answered with a problem document. */
export class ApiError extends ClientError {}
/** The request is malformed. */
export class BadRequest extends ApiError {}
/** No API key, or an unknown, revoked or expired one. */
export class AuthenticationFailed extends ApiError {}
/** The API key lacks the scope. */
export class PermissionDenied extends ApiError {}
/** The route, import, item or endpoint does not exist. */
export class NotFound extends ApiError {}
/** The request contradicts the present state. */
export class Conflict extends ApiError {}
/** The revision is not the expected one; `problem.current` is the present one. */
export class PreconditionFailed extends ApiError {}
/** A size, count or length is over `problem.limit`. */
export class TooLarge extends ApiError {}
/** A field is invalid; `problem.errors` lists the fields. */
export class InvalidRequest extends ApiError {}
/** The node has more work than it can do in time. */
export class Overloaded extends ApiError {}
/** The node failed; its log has the details. */
export class ServerFailed extends ApiError {}
/** The same request may succeed later. */
export class Unavailable extends ApiError {}
/** The node had no answer before the deadline. */
export class DeadlinePassed extends ApiError {}

const CLASS_BY_STATUS: Readonly<Record<number, typeof ApiError>> = {
  401: AuthenticationFailed,
  403: PermissionDenied,
  404: NotFound,
  409: Conflict,
  412: PreconditionFailed,
  413: TooLarge,
  422: InvalidRequest,
  429: Overloaded,
  503: Unavailable,
  504: DeadlinePassed,
};

/** The class of a problem by its HTTP status. */
export function classOf(status: number): typeof ApiError {
  return CLASS_BY_STATUS[status] ?? (status >= 500 ? ServerFailed : BadRequest);
}
