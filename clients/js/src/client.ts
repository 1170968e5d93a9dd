/** `Client`: the API of a cluster over `fetch`. */

import { Call, type Request, RETRY_POLICY, type RetryPolicy, Session } from "./core.js";
import { ConfigError, UnexpectedAnswer } from "./errors.js";
import type {
  Ack,
  AliasInfo,
  AliasInput,
  AliasPage,
  Choice,
  Decisions,
  Erasure,
  ErasureStatus,
  FeedbackReceipt,
  HistoryPage,
  ImportResult,
  LabelledQuery,
  Match,
  Operation,
  Promotion,
  Question,
  RouteInput,
  RoutePage,
  RouteSetInfo,
  RouteSetLimits,
  RouteSetPage,
  RouteSetSettings,
  SetDiff,
  SetTestPage,
  SetTestRun,
  ShadowReport,
  StoredRoute,
  WriteResult,
} from "./types.js";

export type HeaderSource = Record<string, string> | (() => Record<string, string>);

export interface ClientOptions {
  /** One or several base addresses; by default `SYNAPTOROUTE_URL`, else `http://127.0.0.1:8080`. */
  urls?: string | readonly string[];
  /** API key; by default `SYNAPTOROUTE_API_KEY`. An empty text sends none. */
  apiKey?: string;
  /** Time of a call with all its attempts and waits, 30,000 by default. */
  timeoutMs?: number;
  /** Longest attempt, 10,000 by default, so that a node that hangs leaves time for another. */
  attemptTimeoutMs?: number;
  retry?: Partial<RetryPolicy>;
  /** Whether reads are at least as new as the writes of this client; true by default. */
  readYourWrites?: boolean;
  /** Version that reads need from the beginning, such as `version` of another client. */
  minVersion?: string;
  /** Further headers of every request; a function is called for each, such as for `traceparent`. */
  headers?: HeaderSource;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface CallOptions {
  /** Ends the call; it then rejects with the reason of the signal. */
  signal?: AbortSignal;
  /** Time of this call. */
  timeoutMs?: number;
}

export interface ReadOptions extends CallOptions {
  /** `head` asks the log for its newest entry first. */
  consistency?: "local" | "head";
}

export interface QueryOptions extends ReadOptions {
  /** Best routes to list as candidates, 1 to 100. */
  limit?: number;
  /** Only these may match. */
  routes?: readonly string[];
  /** List candidates with scores and confidence. */
  explain?: boolean;
  /** Earlier turns of the conversation, oldest first. */
  context?: readonly string[];
  /** Weights of routes, -20 to 20. */
  prior?: Record<string, number>;
  /** Keeps the queries of one session on one side of an alias with a canary. */
  session?: string;
}

export interface PageOptions extends ReadOptions {
  /** `next_after` of the page before. */
  after?: string;
  /** 1 to 1,000; 100 by default. */
  limit?: number;
}

export interface HistoryOptions extends CallOptions {
  /** Only changes of this route. */
  route?: string;
  /** Only changes of this route set or alias. */
  set?: string;
  /** `next_before` of the page before. */
  before?: number;
  /** Entries to look for, 1 to 500. */
  limit?: number;
  /** Whether to show what was before and after; true by default. */
  changes?: boolean;
}

export interface WriteOptions extends CallOptions {
  /** Level of durability to wait for. */
  ack?: Ack;
  /** How long the node waits for it. */
  ackTimeoutSeconds?: number;
  /** Revision that the route must have; `*` for any. */
  ifMatch?: string;
  /** Whether the route must not exist. */
  ifAbsent?: boolean;
  /** Makes the write safe to repeat across calls; by default a new key, kept over the attempts. */
  idempotencyKey?: string;
  /** What the history says about the change. */
  note?: string;
}

export interface ImportOptions extends CallOptions {
  /** Also delete every route that the import does not name. */
  replace?: boolean;
  /** Names the import, so that an interrupted one can be sent again. */
  importId?: string;
  ack?: Ack;
}

export interface ChooseOptions extends CallOptions {
  /** The question. */
  instructions?: string;
  /** Route set that answers. */
  model?: string;
}

export interface RequestOptions extends CallOptions {
  parameters?: Record<string, string>;
  document?: unknown;
  headers?: Record<string, string>;
  /** Whether it changes something; true for every method but GET and HEAD. */
  isWrite?: boolean;
}

/** Fields of a route to change; an absent one stays as it is, null restores the default. */
export type RouteChanges = Partial<Omit<RouteInput, "name" | "utterances">>;

const JSON_TYPE = "application/json";
const NDJSON_TYPE = "application/x-ndjson";
const TRANSFER_MS = 300_000;
/** Longest attempt of what asks many texts; the node gives them 120 s. */
const TESTS_MS = 150_000;
/** Codes of errors before a connection exists; no node can have the request then. */
const UNSENT = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** A client of a cluster. */
export class Client {
  #session: Session;
  /** Route set, or alias, of its calls; empty for `default`. */
  #routeSet = "";
  readonly #given: ClientOptions;
  readonly #fetch: typeof fetch;
  readonly #headers: HeaderSource;
  readonly #apiKey: string;

  constructor(options: ClientOptions | string | readonly string[] = {}) {
    const given: ClientOptions =
      typeof options === "string" || isList(options) ? { urls: options } : options;
    this.#given = given;
    this.#apiKey = given.apiKey ?? environment("SYNAPTOROUTE_API_KEY") ?? "";
    if (!/^[\x21-\x7e]*$/.test(this.#apiKey)) {
      throw new ConfigError("the API key has characters that no key has");
    }
    this.#session = new Session({
      urls: readUrls(given.urls),
      policy: { ...RETRY_POLICY, ...given.retry },
      timeoutMs: given.timeoutMs ?? 30_000,
      attemptTimeoutMs: given.attemptTimeoutMs ?? 10_000,
      readsOwnWrites: given.readYourWrites ?? true,
      minVersion: given.minVersion,
    });
    this.#headers = given.headers ?? {};
    // Unbound, some browsers refuse to call it.
    this.#fetch = given.fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  /** Version of the newest own write, for `minVersion` or `see` of another client. */
  get version(): string | undefined {
    return this.#session.version;
  }

  /** Let further reads be at least as new as a version. */
  see(version: string): void {
    this.#session.see(version);
  }

  /** A client of one route set, or for queries of an alias, that shares everything else. */
  set(name: string): Client {
    const bound = new Client(this.#given);
    bound.#session = this.#session;
    bound.#routeSet = name === "default" ? "" : name;
    return bound;
  }

  // --- queries -------------------------------------------------------------------------

  /** Route a text. */
  async query(text: string, options: QueryOptions = {}): Promise<Match> {
    return this.#query("/v1/query", { text, ...queryFields(options) }, options);
  }

  /** Route a text and list the best candidates with scores and confidence. */
  async explain(text: string, options: QueryOptions = {}): Promise<Match> {
    return this.query(text, { limit: 5, ...options, explain: true });
  }

  /** Route each clause of a text; every match has the `span` of its part. */
  async querySplit(text: string, options: QueryOptions = {}): Promise<Match[]> {
    const document = { text, split: true, ...queryFields(options) };
    const found: { matches: Match[] } = await this.#query("/v1/query", document, options);
    return found.matches;
  }

  /** Route up to 1,024 texts; one match each, in their order. */
  async queryBatch(texts: readonly string[], options: QueryOptions = {}): Promise<Match[]> {
    const document = { texts, ...queryFields(options) };
    const found: { matches: Match[] } = await this.#query("/v1/query/batch", document, options);
    return found.matches;
  }

  /** Choose one of several options, given as a list or with a description of each. */
  async choose<Value extends string | boolean>(
    state: unknown,
    choices: readonly Value[] | Record<string, string | null>,
    options: ChooseOptions = {},
  ): Promise<Choice<Value>> {
    const listed = isList(choices)
      ? choices.map((value) => ({ value }))
      : Object.entries(choices).map(([value, description]) =>
          description === null ? { value } : { value, description },
        );
    const instructions = options.instructions ?? "Which option?";
    const question = { type: "choice" as const, name: "choice", instructions, choices: listed };
    const found = await this.decide(state, [question], options);
    const [answer] = found.answers as unknown as {
      type: string;
      choice: Value;
      confidence: number;
      probabilities: { value: Value; probability: number }[];
    }[];
    if (answer?.type !== "choice") {
      throw new UnexpectedAnswer(`an answer of type ${answer?.type} to a choice`);
    }
    return {
      choice: answer.choice,
      confidence: answer.confidence,
      probabilities: new Map(answer.probabilities.map((each) => [each.value, each.probability])),
      model: found.model,
    };
  }

  /** Answer several questions in one call, in the form of `POST /v1/decisions`. */
  async decide(
    state: unknown,
    questions: readonly Question[],
    options: ChooseOptions = {},
  ): Promise<Decisions> {
    const document = { model: options.model ?? "default", input: state, questions };
    return this.#query("/v1/decisions", document, options);
  }

  /** Say which route is right, null for no route; name the text or the `decisionId`. */
  async feedback(
    route: string | null,
    about: { text?: string; decisionId?: string; was?: string | null },
    options: WriteOptions = {},
  ): Promise<FeedbackReceipt> {
    const { text, decisionId, was } = about;
    const document = { route, text, decision_id: decisionId, was };
    return (await this.#write("POST", "/v1/feedback", document, options)).json();
  }

  // --- routes --------------------------------------------------------------------------

  /** All routes in order of name, page by page. */
  async *routes(options: ReadOptions = {}): AsyncGenerator<StoredRoute, void, undefined> {
    let after: string | null = "";
    while (after !== null) {
      const page: RoutePage = await this.listRoutes({ ...options, after });
      yield* page.routes;
      after = page.next_after;
    }
  }

  /** One page of the routes, after a name. */
  async listRoutes(
    options: ReadOptions & { after?: string; limit?: number } = {},
  ): Promise<RoutePage> {
    const parameters: Record<string, string> = { limit: String(options.limit ?? 100) };
    if (options.after) parameters["after"] = options.after;
    return this.#read("/v1/routes", options, parameters);
  }

  /** One route with its utterances. */
  async getRoute(name: string, options: ReadOptions = {}): Promise<StoredRoute> {
    return this.#read(routePath(name), options);
  }

  /** Create a route or replace all of it; `created` says which. */
  async putRoute(route: RouteInput, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("PUT", routePath(route.name), route, options);
  }

  /** Replace fields of a route; the others and the utterances stay as they are. */
  async patchRoute(
    name: string,
    changes: RouteChanges,
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("PATCH", routePath(name), changes, options);
  }

  /** Remove a route. */
  async deleteRoute(name: string, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("DELETE", routePath(name), undefined, options);
  }

  /** Add examples to a route; `count` says how many were new. */
  async addUtterances(
    name: string,
    utterances: readonly string[],
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("POST", `${routePath(name)}/utterances`, { utterances }, options);
  }

  /** Remove examples from a route; the last one cannot be removed. */
  async removeUtterances(
    name: string,
    utterances: readonly string[],
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("DELETE", `${routePath(name)}/utterances`, { utterances }, options);
  }

  // --- transfer ------------------------------------------------------------------------

  /** Create or replace many routes, all at once or not at all. */
  async importRoutes(
    routes: Iterable<RouteInput> | AsyncIterable<RouteInput>,
    options: ImportOptions = {},
  ): Promise<ImportResult> {
    const lines: string[] = [];
    for await (const route of routes) lines.push(`${JSON.stringify(route)}\n`);
    const parameters: Record<string, string> = {};
    if (options.replace) parameters["replace"] = "true";
    if (options.importId !== undefined) parameters["import_id"] = options.importId;
    if (options.ack !== undefined) parameters["ack"] = options.ack;
    const request: Request = {
      method: "POST",
      path: "/v1/import",
      parameters,
      body: lines.join(""),
      contentType: NDJSON_TYPE,
      isWrite: true,
      attemptTimeoutMs: TRANSFER_MS,
    };
    return (await this.#send(request, { timeoutMs: TRANSFER_MS, ...options })).json();
  }

  /** All routes at one position, as a stream; not tried again once it has begun. */
  async *exportRoutes(options: ReadOptions = {}): AsyncGenerator<RouteInput, void, undefined> {
    const request: Request = {
      method: "GET",
      path: "/v1/export",
      parameters: consistencyOf(options),
      headers: { Accept: NDJSON_TYPE },
      isVersioned: true,
      attemptTimeoutMs: TRANSFER_MS,
    };
    const reply = await this.#send(request, { timeoutMs: TRANSFER_MS, ...options });
    for await (const line of reply.lines()) yield parseJson(line) as RouteInput;
  }

  // --- settings and outcomes -------------------------------------------------------------

  /** Settings of the route set. */
  async getSettings(options: ReadOptions = {}): Promise<RouteSetSettings> {
    return this.#read("/v1/settings", options);
  }

  /** Replace all settings of the route set; needs the scope `admin`. */
  async putSettings(settings: RouteSetSettings, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("PUT", "/v1/settings", settings, options);
  }

  /** Outcome of a write by its `op_id`. */
  async getOperation(opId: string, options: CallOptions = {}): Promise<Operation> {
    return this.#read(`/v1/ops/${encodeURIComponent(opId)}`, options);
  }

  // --- route sets ------------------------------------------------------------------------

  /** One page of the route sets that the key may know. */
  async listSets(options: PageOptions = {}): Promise<RouteSetPage> {
    return this.#read("/v1/sets", options, pageOf(options));
  }

  /** One route set: counts, limits, revision and aliases. */
  async getSet(name: string, options: ReadOptions = {}): Promise<RouteSetInfo> {
    return this.#read(setPath(name), options);
  }

  /** Create a route set, or replace the limits of one; without `limits` they stay. */
  async putSet(
    name: string,
    limits?: RouteSetLimits,
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("PUT", setPath(name), { limits }, options);
  }

  /** Remove a route set with everything in it. */
  async deleteSet(name: string, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("DELETE", setPath(name), undefined, options);
  }

  /** Copy a route set with its routes, settings, tests and limits. */
  async forkSet(name: string, into: string, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("POST", `${setPath(name)}/fork`, { as: into }, options);
  }

  /** One page of the aliases that the key may know. */
  async listAliases(options: PageOptions = {}): Promise<AliasPage> {
    return this.#read("/v1/aliases", options, pageOf(options));
  }

  /** One alias with its newest changes. */
  async getAlias(name: string, options: ReadOptions = {}): Promise<AliasInfo> {
    return this.#read(aliasPath(name), options);
  }

  /** Point an alias at a route set; `gate_failed` of a gate has `evidence`. */
  async putAlias(name: string, alias: AliasInput, options: WriteOptions = {}): Promise<Promotion> {
    const given = alias.gate === undefined ? options : { timeoutMs: TESTS_MS, ...options };
    const attemptMs = alias.gate === undefined ? undefined : TESTS_MS;
    return this.#change("PUT", aliasPath(name), alias, given, attemptMs);
  }

  /** Remove an alias; the sets stay. */
  async deleteAlias(name: string, options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("DELETE", aliasPath(name), undefined, options);
  }

  /** Restore what an alias named before its last change, or since the change `version`. */
  async rollBack(name: string, version?: string, options: WriteOptions = {}): Promise<WriteResult> {
    const document = version === undefined ? undefined : { version };
    return this.#change("POST", `${aliasPath(name)}/rollback`, document, options);
  }

  /** What one node counted of the shadow of an alias. */
  async getShadow(name: string, options: CallOptions = {}): Promise<ShadowReport> {
    return this.#read(`${aliasPath(name)}/shadow`, options);
  }

  /** Count the shadow of an alias from zero, on one node. */
  async resetShadow(name: string, options: CallOptions = {}): Promise<ShadowReport> {
    return (await this.#write("DELETE", `${aliasPath(name)}/shadow`, undefined, options)).json();
  }

  // --- tests -------------------------------------------------------------------------------

  /** One page of the tests of the route set, in order of text. */
  async listTests(options: PageOptions = {}): Promise<SetTestPage> {
    return this.#read("/v1/tests", options, pageOf(options));
  }

  /** Replace all tests of the route set; `count` says how many changed. */
  async putTests(
    tests: readonly LabelledQuery[],
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("PUT", "/v1/tests", { tests }, options);
  }

  /** Add or replace `tests`, and remove those of the texts in `removed`. */
  async patchTests(
    changes: { tests?: readonly LabelledQuery[]; removed?: readonly string[] },
    options: WriteOptions = {},
  ): Promise<WriteResult> {
    return this.#change("PATCH", "/v1/tests", changes, options);
  }

  /** Remove all tests of the route set. */
  async deleteTests(options: WriteOptions = {}): Promise<WriteResult> {
    return this.#change("DELETE", "/v1/tests", undefined, options);
  }

  /** Ask the route set its own tests, or labelled texts. */
  async evaluate(
    texts?: readonly LabelledQuery[],
    options: CallOptions = {},
  ): Promise<SetTestRun> {
    return this.#query("/v1/evaluation", { texts }, { timeoutMs: TESTS_MS, ...options }, TESTS_MS);
  }

  /** Compare the answers of two route sets to the tests of both, or to texts. */
  async diff(
    from: string,
    to: string,
    texts?: readonly { text: string; route?: string | null }[],
    options: CallOptions = {},
  ): Promise<SetDiff> {
    const given = { timeoutMs: TESTS_MS, ...options };
    return this.#query("/v1/diff", { from, to, texts }, given, TESTS_MS);
  }

  // --- history and erasure -----------------------------------------------------------------

  /** One page of the history, newest first. */
  async history(options: HistoryOptions = {}): Promise<HistoryPage> {
    const { route, set, before, limit, changes } = options;
    const parameters: Record<string, string> = {};
    for (const [name, value] of Object.entries({ route, set, before, limit, changes })) {
      if (value !== undefined) parameters[name] = String(value);
    }
    return this.#read("/v1/history", options, parameters);
  }

  /** Restore what the entry of a version changed. */
  async revert(version: string, options: WriteOptions = {}): Promise<WriteResult> {
    const path = `/v1/history/${encodeURIComponent(version)}/revert`;
    return this.#change("POST", path, undefined, options);
  }

  /** Erase up to 100 texts from every route set and the logs; needs the scope `admin`. */
  async erase(texts: readonly string[], options: WriteOptions = {}): Promise<Erasure> {
    return (await this.#write("POST", "/v1/erase", { texts }, options)).json();
  }

  /** Whether one node and Redis still keep entries from before the newest erasure. */
  async getErasure(options: CallOptions = {}): Promise<ErasureStatus> {
    return this.#read("/v1/erase", options);
  }

  /** Send any JSON request and return the JSON of its answer. */
  async request<Result = unknown>(
    method: string,
    path: string,
    options: RequestOptions = {},
  ): Promise<Result> {
    const isWrite = options.isWrite ?? !["GET", "HEAD"].includes(method);
    const request: Request = { method, path, isWrite, isVersioned: !isWrite };
    if (options.parameters) request.parameters = options.parameters;
    if (options.headers) request.headers = options.headers;
    if (options.document !== undefined) {
      request.body = JSON.stringify(options.document);
      request.contentType = JSON_TYPE;
    }
    return (await this.#send(request, options)).json();
  }

  // --- shapes of requests ----------------------------------------------------------------

  async #query<Result>(
    path: string,
    document: unknown,
    options: ReadOptions,
    attemptTimeoutMs?: number,
  ): Promise<Result> {
    const request: Request = {
      method: "POST",
      path,
      parameters: consistencyOf(options),
      body: JSON.stringify(document),
      contentType: JSON_TYPE,
      isVersioned: true,
      isQuery: path.startsWith("/v1/query"),
    };
    if (attemptTimeoutMs !== undefined) request.attemptTimeoutMs = attemptTimeoutMs;
    return (await this.#send(request, options)).json();
  }

  async #read<Result>(
    path: string,
    options: ReadOptions,
    parameters: Record<string, string> = {},
  ): Promise<Result> {
    const request: Request = {
      method: "GET",
      path,
      parameters: { ...parameters, ...consistencyOf(options) },
      isVersioned: true,
    };
    return (await this.#send(request, options)).json();
  }

  async #change(
    method: string,
    path: string,
    document: unknown,
    options: WriteOptions,
    attemptTimeoutMs?: number,
  ): Promise<WriteResult> {
    const reply = await this.#write(method, path, document, options, attemptTimeoutMs);
    const result: WriteResult = await reply.json();
    result.created = reply.status === 201;
    result.held_by = reply.headers.get("sr-held-by") ?? "";
    return result;
  }

  async #write(
    method: string,
    path: string,
    document: unknown,
    options: WriteOptions,
    attemptTimeoutMs?: number,
  ): Promise<Reply> {
    const parameters: Record<string, string> = {};
    const headers: Record<string, string> = {};
    if (options.ack !== undefined) parameters["ack"] = options.ack;
    if (options.ackTimeoutSeconds !== undefined) {
      parameters["ack_timeout"] = String(options.ackTimeoutSeconds);
    }
    if (options.ifMatch !== undefined) {
      const tag = options.ifMatch;
      headers["If-Match"] = tag === "*" || tag.startsWith('"') ? tag : `"${tag}"`;
    }
    if (options.ifAbsent) headers["If-None-Match"] = "*";
    if (options.idempotencyKey !== undefined) {
      headers["Idempotency-Key"] = options.idempotencyKey;
    }
    if (options.note !== undefined) {
      // A header has bytes: those of UTF-8, each as one character.
      const bytes = new TextEncoder().encode(options.note);
      headers["SR-Note"] = String.fromCharCode(...bytes);
    }
    const request: Request = { method, path, parameters, headers, isWrite: true };
    if (document !== undefined) {
      request.body = JSON.stringify(document);
      request.contentType = JSON_TYPE;
    }
    if (attemptTimeoutMs !== undefined) request.attemptTimeoutMs = attemptTimeoutMs;
    return this.#send(request, options);
  }

  // --- transport ---------------------------------------------------------------------------

  async #send(request: Request, options: CallOptions): Promise<Reply> {
    const { signal } = options;
    const call = new Call(this.#session, request, options.timeoutMs);
    const query = new URLSearchParams(request.parameters).toString();
    const target = placed(request.path, this.#routeSet) + (query === "" ? "" : `?${query}`);
    for (;;) {
      const attempt = call.next();
      if (attempt.pauseMs > 0) await pause(attempt.pauseMs, signal);
      signal?.throwIfAborted();
      // Made here, so that a header that cannot be sent is an error at once.
      const headers = new Headers({ ...this.#common(), ...attempt.headers });
      const limit = new TimeLimit(attempt.timeoutMs, signal);
      try {
        const response = await this.#fetch(attempt.url + target, {
          method: request.method,
          headers,
          body: request.body ?? null,
          signal: limit.signal,
          // A redirect would take the API key to another place.
          redirect: "manual",
          credentials: "omit",
        });
        if (response.ok) {
          call.succeeded(response.headers.get("sr-version"));
          return await new Reply(response, call, limit, signal).whole(request);
        }
        const text = await response.text();
        limit.end();
        call.refused(response.status, response.headers, text);
      } catch (error) {
        limit.end();
        signal?.throwIfAborted();
        if (!isTransportError(error)) throw error;
        call.lost(describe(error, limit), !UNSENT.has(codeOf(error)));
      }
    }
  }

  #common(): Record<string, string> {
    const own = typeof this.#headers === "function" ? this.#headers() : this.#headers;
    return this.#apiKey === "" ? { ...own } : { ...own, Authorization: `Bearer ${this.#apiKey}` };
  }
}

/** A successful answer. */
class Reply {
  readonly status: number;
  readonly headers: Headers;
  #text = "";

  constructor(
    readonly response: Response,
    readonly call: Call,
    readonly limit: TimeLimit,
    readonly signal: AbortSignal | undefined,
  ) {
    this.status = response.status;
    this.headers = response.headers;
  }

  /** Read the body, unless it is a stream; a body that breaks off counts as no answer. */
  async whole(request: Request): Promise<this> {
    if (request.path !== "/v1/export") {
      this.#text = await this.response.text();
      this.limit.end();
    }
    return this;
  }

  json<Result>(): Result {
    return parseJson(this.#text) as Result;
  }

  /** Lines of a stream, which end at line feeds only. */
  async *lines(): AsyncGenerator<string, void, undefined> {
    const reader = this.response.body?.getReader();
    if (!reader) return;
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        let piece: ReadableStreamReadResult<Uint8Array>;
        try {
          piece = await reader.read();
        } catch (error) {
          this.signal?.throwIfAborted();
          throw this.call.brokenOff(describe(error, this.limit));
        }
        rest += decoder.decode(piece.value, { stream: !piece.done });
        const lines = rest.split("\n");
        rest = lines.pop() ?? "";
        yield* lines.filter((line) => line !== "");
        if (piece.done) break;
      }
      if (rest !== "") yield rest;
    } finally {
      this.limit.end();
      await reader.cancel().catch(() => undefined);
    }
  }
}

/** A signal that ends with its time or with the caller's signal. */
class TimeLimit {
  readonly #controller = new AbortController();
  readonly #timer: ReturnType<typeof setTimeout>;
  readonly #outer: AbortSignal | undefined;
  readonly #forward = () => this.#controller.abort(this.#outer?.reason);
  hasPassed = false;

  constructor(ms: number, outer: AbortSignal | undefined) {
    this.#outer = outer;
    this.#timer = setTimeout(() => {
      this.hasPassed = true;
      this.#controller.abort();
    }, ms);
    outer?.addEventListener("abort", this.#forward, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#forward);
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

// --- helpers ---------------------------------------------------------------------------------

function queryFields(options: QueryOptions): Record<string, unknown> {
  const { limit, routes, explain, context, prior, session } = options;
  // Fields that are undefined are left out of the JSON.
  return { limit, routes, explain, context, prior, session };
}

function consistencyOf(options: ReadOptions): Record<string, string> {
  return options.consistency === "head" ? { consistency: "head" } : {};
}

/** First parts of the paths below `/v1` that are not about one route set. */
const OF_CLUSTER = new Set(["aliases", "cluster", "diff", "erase", "key", "openapi.json", "sets"]);

/** Path of an endpoint for a route set; empty for `default`. */
function placed(path: string, routeSet: string): string {
  const isOfCluster = OF_CLUSTER.has(path.split("/")[2] ?? "");
  if (routeSet === "" || isOfCluster || !path.startsWith("/v1/")) return path;
  return `/v1/sets/${encodeURIComponent(routeSet)}/${path.slice(4)}`;
}

function pageOf(options: PageOptions): Record<string, string> {
  const parameters: Record<string, string> = {};
  if (options.after !== undefined) parameters["after"] = options.after;
  if (options.limit !== undefined) parameters["limit"] = String(options.limit);
  return parameters;
}

function setPath(name: string): string {
  return `/v1/sets/${encodeURIComponent(name)}`;
}

function aliasPath(name: string): string {
  return `/v1/aliases/${encodeURIComponent(name)}`;
}

function routePath(name: string): string {
  return `/v1/routes/${encodeURIComponent(name)}`;
}

function readUrls(urls: string | readonly string[] | undefined): string[] {
  const given = urls ?? environment("SYNAPTOROUTE_URL") ?? "http://127.0.0.1:8080";
  const listed = typeof given === "string" ? given.split(",") : given;
  const found = listed.map((url) => url.trim().replace(/\/+$/, "")).filter((url) => url !== "");
  if (found.length === 0) throw new ConfigError("a client needs at least one address");
  for (const url of found) {
    let parsed: URL;
    try {
      parsed = new URL(url);
    } catch {
      throw new ConfigError(`invalid address: ${url}`);
    }
    if (!["http:", "https:"].includes(parsed.protocol)) {
      throw new ConfigError(`the address must start with http:// or https://, got ${url}`);
    }
    if (parsed.search !== "" || parsed.hash !== "" || parsed.username !== "") {
      throw new ConfigError("the address must have no user, query or fragment");
    }
  }
  return [...new Set(found)];
}

function environment(name: string): string | undefined {
  const host = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return host.process?.env?.[name] || undefined;
}

function isList<Item>(value: unknown): value is readonly Item[] {
  return Array.isArray(value);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new UnexpectedAnswer("the answer is not JSON");
  }
}

/** `fetch` rejects with a TypeError, or with the reason of its signal. */
function isTransportError(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof Error && error.name === "AbortError");
}

function codeOf(error: unknown): string {
  const cause = (error as { cause?: { code?: unknown; errors?: { code?: unknown }[] } }).cause;
  // Node tries the addresses of a name one after the other, and tells of all of them.
  const code = cause?.code ?? cause?.errors?.[0]?.code;
  return typeof code === "string" ? code : "";
}

function describe(error: unknown, limit: TimeLimit): string {
  if (limit.hasPassed) return "no answer in time";
  const text = error instanceof Error ? error.message : String(error);
  const code = codeOf(error);
  return code === "" ? text : `${text} (${code})`;
}
