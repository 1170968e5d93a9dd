/** Values of the API, with the names that they have there. */

export type MatchReason =
  | "matched"
  | "exact"
  | "below_threshold"
  | "below_confidence"
  | "not_understood"
  | "no_routes"
  | "filter_empty";

/** One route's score for a query. */
export interface Candidate {
  route: string;
  score: number;
  threshold: number | null;
  passed: boolean;
  utterance: string | null;
  similarity: number;
  confidence: number | null;
  confidence_min: number | null;
  prior?: number;
}

/** The result of a query; `route` is null if no route matched. */
export interface Match {
  route: string | null;
  reason: MatchReason;
  /** Probability that the route is right, 0 to 1; null if the encoder has no numbers for it. */
  confidence: number | null;
  confidence_min: number | null;
  score: number | null;
  threshold: number | null;
  utterance: string | null;
  similarity: number | null;
  margin: number | null;
  runner_up: string | null;
  truncated: boolean;
  payload: unknown;
  metadata: Record<string, unknown>;
  /** `epoch.seq` at which the answer was computed. */
  version: string;
  node: string;
  /** Best routes first; only with `limit` or `explain`. */
  candidates?: Candidate[] | null;
  /** Probability that no route is right; only with `explain`. */
  p_none?: number | null;
  /** Part of the text that it answers; only of `querySplit`. */
  span?: [number, number] | null;
  decision_id?: string | null;
  /** The route set that answered; only for a query that names a set or an alias. */
  route_set?: string | null;
}

/** A route to write. */
export interface RouteInput {
  name: string;
  utterances: string[];
  threshold?: number | null;
  confidence_min?: number | null;
  description?: string | null;
  negatives?: string[];
  metadata?: Record<string, unknown>;
  payload?: unknown;
}

/** A route as the nodes store it. */
export interface StoredRoute {
  name: string;
  utterances: string[];
  threshold: number | null;
  effective_threshold: number | null;
  metadata: Record<string, unknown>;
  payload: unknown;
  revision: string;
  confidence_min?: number | null;
  effective_confidence_min?: number | null;
  description?: string;
  negatives?: string[];
}

export interface RoutePage {
  routes: StoredRoute[];
  /** `after` of the next page; null at the end. */
  next_after: string | null;
  version: string;
}

export type Ack = "accepted" | "applied" | "quorum" | "all";

export interface WriteResult {
  status: "applied" | "unchanged" | "pending";
  op_id: string;
  version: string;
  revision: string | null;
  count: number;
  ack: Ack;
  /** Whether the write created its route. */
  created: boolean;
  /** How many of how many voters hold the write on disk, with `ack` `quorum` or `all`. */
  held_by: string;
  warnings?: string[];
}

export interface ImportResult {
  status: "applied" | "unchanged" | "pending";
  import_id: string;
  op_id: string;
  version: string;
  routes: number;
  utterances: number;
  warnings?: string[];
}

/** The outcome of a write, as a node remembers it. */
export interface Operation {
  op_id: string;
  status: "applied" | "unchanged" | "rejected";
  version: string;
  revision: string | null;
  count: number;
  code: string | null;
  detail: string | null;
}

export interface FeedbackReceipt {
  id: string;
  times: number;
  version: string;
  status: "applied" | "unchanged" | "pending";
}

/** Settings of the route set; see `GET /v1/settings`. */
export interface RouteSetSettings {
  aggregation: string;
  topk: number;
  threshold: number | null;
  capacity_slots: number;
  [setting: string]: unknown;
}

/** Limits of a route set; 0 is no limit. */
export interface RouteSetLimits {
  utterances_max?: number;
  routes_max?: number;
  bytes_max?: number;
  writes_per_second_max?: number;
  write_bytes_per_second_max?: number;
}

export interface RouteSetInfo {
  name: string;
  routes: number;
  /** Utterances, descriptions and negatives. */
  utterances: number;
  revision: string;
  created: string;
  forked_from: string | null;
  limits: Required<RouteSetLimits>;
  aliases: string[];
}

export interface RouteSetPage {
  sets: RouteSetInfo[];
  next_after: string | null;
  version: string;
}

/** What an alias points to. */
export interface AliasInput {
  /** The set that answers. */
  set: string;
  /** A set that is scored as well and answers nothing. */
  shadow?: string | null;
  shadow_share?: number;
  /** A set that answers some sessions. */
  canary?: string | null;
  canary_share?: number;
  /** What the tests of the set must show first; see `PUT /v1/aliases/{alias}`. */
  gate?: Record<string, unknown>;
}

export interface AliasInfo extends Omit<AliasInput, "gate"> {
  name: string;
  revision: string;
  /** Its newest changes, the newest first. */
  history: Record<string, unknown>[];
}

export interface AliasPage {
  aliases: AliasInfo[];
  next_after: string | null;
  version: string;
}

/** The answer to one question with several options. */
export interface Choice<Value extends string | boolean = string | boolean> {
  choice: Value;
  confidence: number;
  probabilities: Map<Value, number>;
  model: string;
}

/** A question of `POST /v1/decisions`. */
export interface Question {
  type: "choice" | "predicate" | "score";
  name?: string;
  instructions?: string;
  choices?: { value: string | boolean; description?: string }[];
  levels?: { label: string; description?: string }[];
}

export interface Decisions {
  model: string;
  answers: Record<string, unknown>[];
  [field: string]: unknown;
}
