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
  /** Whether sure queries are answered without the encoder; "auto" where that pays. */
  cascade?: "auto" | boolean;
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
  /** What the tests of the set must show first. */
  gate?: Gate;
}

/** What a promotion demands; `gate_failed` if it is not met. */
export interface Gate {
  min_accuracy?: number;
  max_regressions?: number;
  min_tests?: number;
  min_shadow_agreement?: number;
  min_shadow_queries?: number;
}

/** A labelled query; `route` is null for no route. */
export interface LabelledQuery {
  text: string;
  route: string | null;
}

export interface SetTestPage {
  route_set: string;
  tests: LabelledQuery[];
  total: number;
  next_after: string | null;
  revision: string;
  version: string;
}

export interface FailedTest {
  text: string;
  expected: string | null;
  got: string | null;
  confidence: number | null;
  /** Whether the set that is compared answers it right. */
  is_regression: boolean | null;
}

/** How a route set answers labelled queries. */
export interface SetTestRun {
  route_set: string;
  revision: string;
  version: string;
  /** Whether the set did not change meanwhile. */
  is_current: boolean;
  tests: number;
  right: number;
  accuracy: number | null;
  routes: { route: string | null; tests: number; right: number }[];
  failures: FailedTest[];
  failures_total: number;
}

/** What a gate measured; figures that it does not need are absent. */
export interface Evidence {
  gate: Gate;
  target: string;
  target_revision: string;
  base?: string;
  base_revision?: string;
  tests?: number;
  accuracy?: number;
  base_accuracy?: number;
  regressions?: number;
  failures: Partial<FailedTest>[];
  failures_total: number;
  shadow_queries?: number;
  shadow_agreement?: number;
  unmet: string[];
}

export interface Promotion extends WriteResult {
  /** What the gate measured; absent without a gate. */
  evidence?: Evidence;
}

export interface DiffSide {
  route_set: string;
  revision: string;
  right: number;
  accuracy: number | null;
}

export interface DiffDecision {
  route: string | null;
  confidence: number | null;
}

/** How two route sets answer the same texts. */
export interface SetDiff {
  before: DiffSide;
  after: DiffSide;
  texts: number;
  labelled: number;
  changed_total: number;
  fixed: number;
  broken: number;
  changed: {
    text: string;
    expected: string | null;
    before: DiffDecision;
    after: DiffDecision;
    verdict: "fixed" | "broken" | "both_wrong" | "unlabelled";
  }[];
  routes: {
    route: string | null;
    before: number;
    after: number;
    expected: number;
    right_before: number;
    right_after: number;
  }[];
  is_current: boolean;
}

/** What one node counted of a shadow since both sets have their present content. */
export interface ShadowReport {
  alias: string;
  node: string;
  set: string;
  shadow: string | null;
  revision: string | null;
  shadow_revision: string | null;
  compared: number;
  agreed: number;
  disagreed: number;
  agreement: number | null;
  skipped: number;
  pairs: { answered: string | null; shadowed: string | null; count: number }[];
  other: number;
  sample: {
    text: string;
    at_ms: number;
    answered: string | null;
    shadowed: string | null;
    answered_confidence: number | null;
    shadowed_confidence: number | null;
  }[];
}

export interface HistoryChange {
  kind: "route" | "settings" | "tests" | "alias" | "set";
  name: string;
  route_set: string;
  before: Record<string, unknown> | null;
  after: Record<string, unknown> | null;
  is_known: boolean;
}

/** One entry of the log. */
export interface HistoryEntry {
  version: string;
  at: string;
  author: string | null;
  note: string | null;
  action: string;
  route_set: string | null;
  route: string | null;
  alias: string | null;
  import_id: string | null;
  status: string;
  code: string | null;
  count: number;
  op_id: string;
  changes: HistoryChange[] | null;
  changes_total: number;
}

export interface HistoryPage {
  entries: HistoryEntry[];
  /** `before` of the next page; null at the end. */
  next_before: number | null;
}

/** What one node still keeps of the time before the newest erasure. */
export interface ErasureStatus {
  node: string;
  version: string | null;
  is_clean: boolean;
  waiting_for: string[];
}

export interface Erasure {
  status: string;
  op_id: string;
  version: string;
  found: {
    utterances: number;
    descriptions: number;
    negatives: number;
    tests: number;
    feedback: number;
    routes_deleted: number;
    unmatched: number;
  };
  logs: ErasureStatus;
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
