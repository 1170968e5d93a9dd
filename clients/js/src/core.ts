/**
 * What a client decides, without any transport: addresses, retries, versions, deadlines.
 *
 * The rules are those of the Python client: a write keeps its idempotency key over its attempts;
 * an address that does not answer rests and is asked earlier only if no other is left; an address
 * that sends `Retry-After` is not asked before; attempts, waits and the whole call are limited.
 */

import {
  CallTimeout,
  type ClientError,
  classOf,
  ConnectionFailed,
  type Outcome,
  type Problem,
  UnexpectedAnswer,
} from "./errors.js";

/** How often and how long a call is tried. */
export interface RetryPolicy {
  /** Most requests of one call. */
  attemptsMax: number;
  /** Wait after every address was tried once; doubled each round. */
  firstWaitMs: number;
  /** Longest such wait. */
  waitMsMax: number;
  /** All waits of one call together, those for `Retry-After` included. */
  totalWaitMsMax: number;
  /** How long an address that does not answer rests; doubled each time. */
  restMs: number;
  /** Longest rest. */
  restMsMax: number;
  /** Longest time for which `Retry-After` keeps an address from other calls. */
  refusalMsMax: number;
}

export const RETRY_POLICY: Readonly<RetryPolicy> = {
  attemptsMax: 8,
  firstWaitMs: 100,
  waitMsMax: 5_000,
  totalWaitMsMax: 30_000,
  restMs: 500,
  restMsMax: 30_000,
  refusalMsMax: 60_000,
};

/** One call as data. */
export interface Request {
  method: string;
  path: string;
  parameters?: Record<string, string>;
  body?: string;
  contentType?: string;
  headers?: Record<string, string>;
  /** Whether it changes something; it then gets an idempotency key. */
  isWrite?: boolean;
  /** Whether the answer must be as new as this client's writes. */
  isVersioned?: boolean;
  /** Whether the node is told how long the answer is useful. */
  isQuery?: boolean;
  /** Longest attempt, in place of that of the client. */
  attemptTimeoutMs?: number;
}

/** One request to send, after a pause. */
export interface Attempt {
  url: string;
  headers: Record<string, string>;
  pauseMs: number;
  timeoutMs: number;
}

interface Address {
  url: string;
  failures: number;
  restsUntil: number;
  refusesUntil: number;
}

interface Version {
  epoch: number;
  seq: number;
}

const RETRIED = new Set([408, 429, 502, 503]);
/** Refusals that hold for every call at an address, not for one alone. */
const RESTING_CODES = new Set(["not_ready", "shutting_down", "overloaded", "encoder_error"]);
const DEADLINE_MS_MAX = 600_000;
const PROBLEM_CHARACTERS_MAX = 65_536;

export interface SessionOptions {
  urls: readonly string[];
  policy: RetryPolicy;
  timeoutMs: number;
  attemptTimeoutMs: number;
  readsOwnWrites: boolean;
  minVersion?: string | undefined;
  now?: () => number;
  draw?: (low: number, high: number) => number;
}

/** The state that all calls of one client share. */
export class Session {
  readonly policy: RetryPolicy;
  readonly timeoutMs: number;
  readonly attemptTimeoutMs: number;
  readonly readsOwnWrites: boolean;
  readonly now: () => number;
  readonly draw: (low: number, high: number) => number;
  readonly #addresses: Address[];
  #turn: number;
  #version: Version | undefined;

  constructor(options: SessionOptions) {
    this.policy = options.policy;
    this.timeoutMs = options.timeoutMs;
    this.attemptTimeoutMs = options.attemptTimeoutMs;
    this.readsOwnWrites = options.readsOwnWrites;
    this.now = options.now ?? (() => performance.now());
    this.draw = options.draw ?? ((low, high) => low + Math.random() * (high - low));
    this.#addresses = options.urls.map((url) => ({
      url,
      failures: 0,
      restsUntil: 0,
      refusesUntil: 0,
    }));
    // Many clients that start together must not all begin with the first address.
    this.#turn = Math.floor(this.draw(0, this.#addresses.length)) % this.#addresses.length;
    if (options.minVersion !== undefined) this.see(options.minVersion);
  }

  /** Version of the newest own write, `epoch.seq`. */
  get version(): string | undefined {
    return this.#version && `${this.#version.epoch}.${this.#version.seq}`;
  }

  /** Let further reads be at least as new as a version. */
  see(version: string): void {
    const seen = parseVersion(version);
    if (!this.#version || isOlder(this.#version, seen)) this.#version = seen;
  }

  /** Forget a version that the cluster lost, unless a newer one was seen. */
  forget(version: string): void {
    if (this.#version && !isOlder(parseVersion(version), this.#version)) this.#version = undefined;
  }

  get addressesCount(): number {
    return this.#addresses.length;
  }

  url(index: number): string {
    return this.#address(index).url;
  }

  /** Choose an address; also how many milliseconds it must not be asked yet. */
  choose(avoided: ReadonlyMap<number, number>, tried: ReadonlySet<number>): [number, number] {
    const now = this.now();
    const count = this.#addresses.length;
    const order = Array.from({ length: count }, (_, offset) => (this.#turn + offset) % count);
    this.#turn = (this.#turn + 1) % count;
    const refuses = (index: number) =>
      Math.max(this.#address(index).refusesUntil, avoided.get(index) ?? 0) - now;
    const rests = (index: number) => this.#address(index).restsUntil;
    const open = order.filter((index) => refuses(index) <= 0);
    if (open.length === 0) {
      const soonest = least(order, refuses);
      return [soonest, refuses(soonest)];
    }
    const rested = open.filter((index) => rests(index) <= now);
    const fresh = rested.filter((index) => !tried.has(index));
    const first = fresh[0] ?? rested[0];
    if (first !== undefined) return [first, 0];
    const untried = open.filter((index) => !tried.has(index));
    return [least(untried.length > 0 ? untried : open, rests), 0];
  }

  works(index: number): void {
    const address = this.#address(index);
    address.failures = 0;
    address.restsUntil = 0;
  }

  /** Let an address rest; `refusesMs` is the time that it asked for. */
  fails(index: number, refusesMs = 0): void {
    const { restMs, restMsMax, refusalMsMax } = this.policy;
    const address = this.#address(index);
    const rest = Math.min(restMs * 2 ** address.failures, restMsMax) * this.draw(0.5, 1);
    address.failures = Math.min(address.failures + 1, 16);
    address.restsUntil = this.now() + rest;
    if (refusesMs > 0) address.refusesUntil = this.now() + Math.min(refusesMs, refusalMsMax);
  }

  #address(index: number): Address {
    const found = this.#addresses[index];
    if (!found) throw new RangeError(`no address ${index}`);
    return found;
  }
}

/** One call, from its first attempt to its answer. */
export class Call {
  readonly idempotencyKey: string | undefined;
  readonly #session: Session;
  readonly #request: Request;
  readonly #endsAt: number;
  readonly #tried = new Set<number>();
  readonly #avoided = new Map<number, number>();
  #attempts = 0;
  #waitedMs = 0;
  #rounds = 0;
  #index = 0;
  #error: ClientError | undefined;
  #mayBeTaken = false;
  #sentVersion: string | undefined;

  constructor(session: Session, request: Request, timeoutMs?: number) {
    this.#session = session;
    this.#request = request;
    this.#endsAt = session.now() + (timeoutMs ?? session.timeoutMs);
    if (request.isWrite) {
      this.idempotencyKey = header(request.headers, "idempotency-key") ?? uuid();
    }
  }

  /** The next request to send; throws when the call has failed for good. */
  next(): Attempt {
    const { policy } = this.#session;
    if (this.#attempts >= policy.attemptsMax) throw this.#giveUp();
    if (this.#tried.size >= this.#session.addressesCount) {
      this.#tried.clear();
      this.#rounds += 1;
    }
    const [index, refusesMs] = this.#session.choose(this.#avoided, this.#tried);
    this.#index = index;
    let pauseMs = refusesMs;
    if (this.#rounds > 0 && this.#tried.size === 0) {
      const longest = policy.firstWaitMs * 2 ** (this.#rounds - 1);
      // Jitter, so that clients that were refused together do not return together.
      const wait = Math.min(longest, policy.waitMsMax) * this.#session.draw(0.5, 1);
      pauseMs = Math.max(pauseMs, wait);
    }
    const leftMs = this.#endsAt - this.#session.now() - pauseMs;
    this.#waitedMs += pauseMs;
    if (leftMs <= 0 || this.#waitedMs > policy.totalWaitMsMax) throw this.#giveUp(pauseMs);
    this.#attempts += 1;
    const longest = this.#request.attemptTimeoutMs ?? this.#session.attemptTimeoutMs;
    const timeoutMs = Math.max(1, Math.min(leftMs, longest));
    return { url: this.#session.url(index), headers: this.#headers(timeoutMs), pauseMs, timeoutMs };
  }

  /** Note that an attempt got no answer; `wasSent` if a node may have the request. */
  lost(detail: string, wasSent: boolean): void {
    this.#session.fails(this.#index);
    this.#tried.add(this.#index);
    this.#mayBeTaken ||= wasSent && this.#request.isWrite === true;
    this.#error = new ConnectionFailed(`${this.#session.url(this.#index)}: ${detail}`);
  }

  /** Note a success. */
  succeeded(version: string | null): void {
    this.#session.works(this.#index);
    // A version of another form is of a proxy; the next answer of a node has one.
    if (this.#request.isWrite && version && VERSION.test(version)) this.#session.see(version);
  }

  /** Note an error; throws it if another attempt would not change it. */
  refused(status: number, headers: Headers, body: string): void {
    const error = this.#errorOf(status, headers, body);
    this.#error = error;
    if (error.code === "version_lost" && this.#sentVersion !== undefined) {
      // Told once: the write is gone, and further reads must not wait for it.
      this.#session.forget(this.#sentVersion);
    }
    const isOfNode = !(error instanceof UnexpectedAnswer);
    if (!this.#isRetried(status, error)) {
      if (isOfNode) this.#session.works(this.#index);
      throw this.#complete(error);
    }
    this.#tried.add(this.#index);
    this.#mayBeTaken ||= this.#request.isWrite === true && error.outcome !== "not_taken";
    const waitMs = (error.retryAfterSeconds ?? 0) * 1_000;
    if (!isOfNode || RESTING_CODES.has(error.code)) this.#session.fails(this.#index, waitMs);
    else if (waitMs > 0) this.#avoided.set(this.#index, this.#session.now() + waitMs);
  }

  /** The error of an answer that broke off after its beginning. */
  brokenOff(detail: string): ClientError {
    return this.#complete(new ConnectionFailed(`${this.#session.url(this.#index)}: ${detail}`));
  }

  #headers(timeoutMs: number): Record<string, string> {
    const request = this.#request;
    const headers: Record<string, string> = { ...request.headers };
    if (request.contentType !== undefined) headers["Content-Type"] = request.contentType;
    if (this.idempotencyKey !== undefined) headers["Idempotency-Key"] = this.idempotencyKey;
    const asksVersion = header(request.headers, "sr-min-version") !== undefined;
    if (request.isVersioned && this.#session.readsOwnWrites && !asksVersion) {
      this.#sentVersion = this.#session.version;
      if (this.#sentVersion !== undefined) headers["SR-Min-Version"] = this.#sentVersion;
    }
    if (request.isQuery && header(request.headers, "sr-deadline-ms") === undefined) {
      headers["SR-Deadline-Ms"] = String(
        Math.min(DEADLINE_MS_MAX, Math.max(1, Math.floor(timeoutMs))),
      );
    }
    return headers;
  }

  #isRetried(status: number, error: ClientError): boolean {
    if (RETRIED.has(status)) return true;
    if (status !== 504) return false;
    // A write whose deadline passed may be decided by now, and its key finds the outcome.
    return (
      error instanceof UnexpectedAnswer ||
      (this.#request.isWrite === true && error.outcome === "unknown")
    );
  }

  #errorOf(status: number, headers: Headers, body: string): ClientError {
    const problem = readProblem(body);
    const fields = {
      status,
      retryAfterSeconds: parseRetryAfter(headers.get("retry-after"), headers.get("date")),
      requestId: headers.get("x-request-id") ?? undefined,
      node: headers.get("sr-node") ?? undefined,
    };
    if (problem === undefined) {
      const url = this.#session.url(this.#index);
      return new UnexpectedAnswer(`${url} answered ${status}, but not as a node does`, fields);
    }
    const told = this.#request.isWrite ? problem.outcome : undefined;
    const outcome: Outcome | undefined =
      told === "unknown" || told === "not_taken" ? told : undefined;
    const { code } = problem;
    return new (classOf(status))(problem.detail, { ...fields, code, problem, outcome });
  }

  #giveUp(pauseMs = 0): ClientError {
    const seconds = pauseMs / 1_000;
    const detail =
      pauseMs > 0
        ? `every address asked for a pause, the shortest of ${seconds.toFixed(1)} s more`
        : "the time of the call passed";
    const retryAfterSeconds = pauseMs > 0 ? seconds : undefined;
    return this.#complete(this.#error ?? new CallTimeout(detail, { retryAfterSeconds }));
  }

  /** Add what is known of a write. */
  #complete(error: ClientError): ClientError {
    if (this.#request.isWrite) {
      error.idempotencyKey = this.idempotencyKey;
      const mayPass =
        error.status === undefined || RETRIED.has(error.status) || error.status === 504;
      if (this.#mayBeTaken && mayPass) error.outcome = "unknown";
      else if (error.outcome === undefined && mayPass) error.outcome = "not_taken";
    }
    return error;
  }
}

const VERSION = /^\d{1,16}\.\d{1,16}$/;

/** Read `epoch.seq`. */
export function parseVersion(version: string): Version {
  if (!VERSION.test(version)) {
    throw new RangeError(`a version is epoch.seq, such as 1.42, got ${version.slice(0, 40)}`);
  }
  const [epoch = "", seq = ""] = version.split(".");
  return { epoch: Number(epoch), seq: Number(seq) };
}

/** Read `Retry-After`, in seconds or as a date that counts from the header `Date`. */
export function parseRetryAfter(value: string | null, date: string | null): number | undefined {
  if (value === null || value.trim() === "") return undefined;
  const seconds = Number(value);
  const found = Number.isFinite(seconds)
    ? seconds
    : (Date.parse(value) - Date.parse(date ?? "")) / 1_000;
  return Number.isFinite(found) ? Math.max(0, found) : undefined;
}

/** A random UUID; older versions of Node and plain HTTP pages have no `crypto.randomUUID`. */
export function uuid(): string {
  const host = globalThis as { crypto?: { getRandomValues?: Crypto["getRandomValues"] } };
  const bytes = new Uint8Array(16);
  if (host.crypto?.getRandomValues) host.crypto.getRandomValues(bytes);
  else bytes.forEach((_, at) => (bytes[at] = Math.floor(Math.random() * 256)));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function readProblem(body: string): Problem | undefined {
  let document: unknown;
  try {
    document = JSON.parse(body.slice(0, PROBLEM_CHARACTERS_MAX));
  } catch {
    return undefined;
  }
  if (!isObject(document)) return undefined;
  const { code, detail, error } = document;
  if (typeof code === "string" && typeof detail === "string") {
    return { ...document, code, detail };
  }
  if (!isObject(error)) return undefined;
  // The form of `/v1/decisions`.
  const { message } = error;
  const named = error["code"] ?? error["type"];
  if (typeof message !== "string" || typeof named !== "string") return undefined;
  return { ...error, code: named, detail: message };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isOlder(first: Version, second: Version): boolean {
  return first.epoch < second.epoch || (first.epoch === second.epoch && first.seq < second.seq);
}

function least(indexes: readonly number[], measure: (index: number) => number): number {
  return indexes.reduce((best, each) => (measure(each) < measure(best) ? each : best));
}

function header(headers: Record<string, string> | undefined, name: string): string | undefined {
  const found = Object.keys(headers ?? {}).find((each) => each.toLowerCase() === name);
  return found === undefined ? undefined : headers?.[found];
}
