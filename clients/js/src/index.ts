export {
  Client,
  type CallOptions,
  type ChooseOptions,
  type ClientOptions,
  type HeaderSource,
  type HistoryOptions,
  type ImportOptions,
  type PageOptions,
  type QueryOptions,
  type ReadOptions,
  type RequestOptions,
  type RouteChanges,
  type WriteOptions,
} from "./client.js";
export type { RetryPolicy } from "./core.js";
export * from "./errors.js";
export type * from "./types.js";
