/** The client against servers on loopback that give prepared answers. */

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import {
  AuthenticationFailed,
  CallTimeout,
  Client,
  ClientError,
  ConfigError,
  Conflict,
  ConnectionFailed,
  NotFound,
  Overloaded,
  Unavailable,
  UnexpectedAnswer,
} from "../dist/index.js";
import { losing, problem, scripted } from "./servers.js";

const closed = await scripted("lost");
closed.close();
const NOBODY = closed.url;
const MATCH = { document: { route: "billing", reason: "matched", version: "1.3" } };
const WRITTEN = { document: { status: "applied", op_id: "0".repeat(32), version: "1.4" } };
const QUICK = { attemptsMax: 4, firstWaitMs: 5, waitMsMax: 10 };

const open = [];
async function server(...answers) {
  const made = await scripted(...answers);
  open.push(made);
  return made;
}
afterEach(() => {
  for (const each of open.splice(0)) each.close();
});
const client = (urls, options = {}) => new Client({ urls, apiKey: "sr_key", retry: QUICK, ...options });

test("a query is sent and read", async () => {
  const node = await server(MATCH);
  const found = await client(node.url).query("my money", { limit: 3, routes: ["billing"] });
  const [asked] = node.asked;

  assert.equal(found.route, "billing");
  assert.equal(`${asked.method} ${asked.url}`, "POST /v1/query");
  assert.deepEqual(JSON.parse(asked.body), { text: "my money", limit: 3, routes: ["billing"] });
  assert.equal(asked.headers.authorization, "Bearer sr_key");
  assert.equal(asked.headers["cache-control"], undefined);
  assert.ok(Number(asked.headers["sr-deadline-ms"]) <= 10_000);
});

test("a dead address is left for a living one", async () => {
  const node = await server(MATCH);
  const own = client([NOBODY, node.url]);
  for (let round = 0; round < 4; round += 1) {
    assert.equal((await own.query("x")).route, "billing");
  }
});

test("a lost answer of a write is asked again with the same key", async () => {
  const node = await server("lost", WRITTEN);
  await client(node.url).putRoute({ name: "a b/c", utterances: ["x"] });
  const keys = new Set(node.asked.map((each) => each.headers["idempotency-key"]));

  assert.equal(node.asked.length, 2);
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(node.asked[0].url, "/v1/routes/a%20b%2Fc");
});

test("two writes have two keys, and a given one is used", async () => {
  const node = await server(WRITTEN);
  const own = client(node.url);
  await own.deleteRoute("a");
  await own.deleteRoute("a");
  await own.deleteRoute("a", { idempotencyKey: "mine" });
  const keys = node.asked.map((each) => each.headers["idempotency-key"]);

  assert.equal(new Set(keys).size, 3);
  assert.equal(keys[2], "mine");
});

test("options of a write become parameters and headers", async () => {
  const node = await server({ ...WRITTEN, status: 201, headers: { "SR-Held-By": "2/3" } });
  const own = client(node.url);
  const written = await own.putRoute(
    { name: "a", utterances: ["x"] },
    { ack: "quorum", ackTimeoutSeconds: 2, ifMatch: "1.2" },
  );
  await own.putRoute({ name: "a", utterances: ["x"] }, { ifAbsent: true });

  assert.deepEqual([written.created, written.held_by], [true, "2/3"]);
  assert.equal(node.asked[0].url, "/v1/routes/a?ack=quorum&ack_timeout=2");
  assert.equal(node.asked[0].headers["if-match"], '"1.2"');
  assert.equal(node.asked[1].headers["if-none-match"], "*");
});

test("reads ask for the version of the newest write", async () => {
  const node = await server({ ...WRITTEN, headers: { "SR-Version": "2.7" } });
  const own = client(node.url);
  await own.query("x");
  await own.deleteRoute("a");
  await own.query("x");
  const heir = client(node.url, { minVersion: own.version });
  await heir.getRoute("a");
  const off = client(node.url, { readYourWrites: false });
  await off.deleteRoute("a");
  await off.query("x");
  const asked = node.asked.map((each) => each.headers["sr-min-version"]);

  assert.deepEqual(asked, [undefined, undefined, "2.7", "2.7", undefined, undefined]);
});

test("a lost version is told once", async () => {
  const node = await server(problem(409, "version_lost"), MATCH);
  const own = client(node.url, { minVersion: "1.9" });
  await assert.rejects(own.query("x"), (error) => error instanceof Conflict);
  await own.query("x");

  assert.equal(node.asked[1].headers["sr-min-version"], undefined);
});

test("a refusal becomes an error with the code of the node", async () => {
  const node = await server(problem(404, "route_not_found"));
  await assert.rejects(client(node.url).getRoute("x"), (error) => {
    assert.ok(error instanceof NotFound && error instanceof ClientError);
    assert.equal(error.name, "NotFound");
    assert.deepEqual(
      [error.code, error.status, error.requestId, error.node, error.message],
      ["route_not_found", 404, "r1", "n1", "about route_not_found"],
    );
    return true;
  });
  assert.equal(node.asked.length, 1);
});

test("a wrong key is not tried again", async () => {
  const node = await server(problem(401, "unauthorized"));
  await assert.rejects(client(node.url).query("x"), AuthenticationFailed);
  assert.equal(node.asked.length, 1);
});

test("Retry-After keeps the address from every call", async () => {
  const node = await server(problem(429, "overloaded", {}, { "Retry-After": "0.2" }), MATCH);
  const own = client(node.url);
  const began = performance.now();
  await own.query("x");

  assert.ok(performance.now() - began >= 190);
});

test("a wait beyond the limit fails at once", async () => {
  const node = await server(problem(429, "overloaded", {}, { "Retry-After": "31" }));
  await assert.rejects(client(node.url).query("x"), (error) => {
    assert.ok(error instanceof Overloaded);
    assert.equal(error.retryAfterSeconds, 31);
    return true;
  });
});

test("a long Retry-After fails further calls at once", async () => {
  const node = await server(problem(503, "not_ready", {}, { "Retry-After": "86400" }));
  const own = client(node.url);
  await assert.rejects(own.query("x"), Unavailable);
  await assert.rejects(own.query("x"), (error) => {
    assert.ok(error instanceof CallTimeout);
    assert.ok(error.retryAfterSeconds > 50 && error.retryAfterSeconds <= 60);
    return true;
  });
  assert.equal(node.asked.length, 1);
});

test("a node that shuts down is left for another", async () => {
  const ending = await server(problem(503, "shutting_down", {}, { "Retry-After": "1" }));
  const living = await server(MATCH);
  const own = client([ending.url, living.url]);
  for (let round = 0; round < 4; round += 1) await own.query("x");

  assert.equal(living.asked.length, 4);
  assert.ok(ending.asked.length <= 1);
});

test("a failed write says whether it may be applied", async () => {
  const silent = await server("lost");
  const full = await server(problem(503, "sequencer_unavailable", { outcome: "not_taken" }));
  for (const [url, kind, outcome] of [
    [silent.url, ConnectionFailed, "unknown"],
    [NOBODY, ConnectionFailed, "not_taken"],
    [full.url, Unavailable, "not_taken"],
  ]) {
    await assert.rejects(client(url).deleteRoute("a"), (error) => {
      assert.ok(error instanceof kind, url);
      assert.equal(error.outcome, outcome);
      assert.match(error.idempotencyKey, /^[0-9a-f-]{36}$/);
      return true;
    });
  }
});

test("a call ends with its time, an attempt before it", async () => {
  const hung = await server("silent");
  const living = await server(MATCH);
  const own = client([hung.url, living.url], { attemptTimeoutMs: 100 });
  for (let round = 0; round < 2; round += 1) await own.query("x");
  const began = performance.now();
  await assert.rejects(
    client(hung.url, { retry: { attemptsMax: 99 } }).query("x", { timeoutMs: 300 }),
    (error) => error instanceof ConnectionFailed || error instanceof CallTimeout,
  );
  assert.ok(performance.now() - began < 2_000);
});

test("the signal of the caller ends a call with its reason", async () => {
  const hung = await server("silent");
  for (const url of [hung.url, NOBODY]) {
    const controller = new AbortController();
    const reason = new Error("not needed any more");
    setTimeout(() => controller.abort(reason), 50);
    const own = client(url, { retry: { attemptsMax: 99, firstWaitMs: 5_000 } });
    await assert.rejects(own.query("x", { signal: controller.signal }), (error) => error === reason);
  }
  const own = client(hung.url);
  await assert.rejects(own.query("x", { signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("an answer of another server is recognised", async () => {
  for (const answer of [
    { status: 500, document: "<html>" },
    { status: 302, document: "", headers: { Location: "http://127.0.0.1:9/" } },
    { status: 200, document: "not json" },
  ]) {
    const node = await server(answer);
    await assert.rejects(client(node.url).query("x"), UnexpectedAnswer);
  }
});

test("routes are read page by page", async () => {
  const node = await server(
    { document: { routes: [{ name: "a" }], next_after: "a b", version: "1.1" } },
    { document: { routes: [{ name: "c" }], next_after: null, version: "1.1" } },
  );
  const names = [];
  for await (const route of client(node.url).routes()) names.push(route.name);

  assert.deepEqual(names, ["a", "c"]);
  assert.match(node.asked[1].url, /after=a(\+|%20)b/);
});

test("an import is made of lines, an export is read as lines", async () => {
  const text = '{"name":"a","utterances":["x\u2028y"]}\n{"name":"b","utterances":["ä"]}';
  const node = await server("lost", { document: { routes: 2 } }, { document: text });
  const own = client(node.url);
  const routes = [
    { name: "a", utterances: ["x"] },
    { name: "b", utterances: ["y"] },
  ];
  assert.equal((await own.importRoutes(routes, { replace: true })).routes, 2);
  assert.equal(node.asked[0].url, "/v1/import?replace=true");
  assert.equal(node.asked[0].body, node.asked[1].body);
  assert.equal(node.asked[0].headers["content-type"], "application/x-ndjson");
  const found = [];
  for await (const route of own.exportRoutes()) found.push(route);
  assert.deepEqual(
    found.map((each) => each.utterances),
    [["x\u2028y"], ["ä"]],
  );
});

test("a choice is one question of decisions", async () => {
  const probabilities = [
    { value: "billing", probability: 0.8 },
    { value: "tech", probability: 0.2 },
  ];
  const answer = { type: "choice", choice: "billing", confidence: 0.7, probabilities };
  const node = await server({ document: { model: "default", answers: [answer] } });
  const own = client(node.url);
  const found = await own.choose("charged twice", { billing: "refunds", tech: null });
  await own.choose("charged twice", ["billing", "tech"]);
  const [first, second] = node.asked.map((each) => JSON.parse(each.body).questions[0].choices);

  assert.equal(found.probabilities.get("billing"), 0.8);
  assert.deepEqual(first, [{ value: "billing", description: "refunds" }, { value: "tech" }]);
  assert.deepEqual(second, [{ value: "billing" }, { value: "tech" }]);
});

test("headers may be made for each request", async () => {
  const node = await server(MATCH);
  let count = 0;
  const own = client(node.url, { headers: () => ({ traceparent: `00-${(count += 1)}` }) });
  await own.query("x");
  await own.query("x");

  assert.deepEqual(
    node.asked.map((each) => each.headers.traceparent),
    ["00-1", "00-2"],
  );
  assert.equal(node.asked[0].headers.authorization, "Bearer sr_key");
});

test("settings that cannot be used are refused", () => {
  for (const urls of ["127.0.0.1:8080", "ftp://a", "", [], "http://a?b", "http://u:p@a"]) {
    assert.throws(() => client(urls), ConfigError, String(urls));
  }
  assert.throws(() => new Client({ apiKey: "secret\nkey" }), (error) => !/secret/.test(error.message));
  assert.throws(() => client("http://a", { minVersion: "1" }), RangeError);
});

test("a header that cannot be sent is an error at once", async () => {
  const node = await server(WRITTEN);
  await assert.rejects(client(node.url).deleteRoute("a", { idempotencyKey: "a\nb" }), TypeError);
  assert.equal(node.asked.length, 0);
});

test("addresses and key come from the environment", async () => {
  const node = await server(MATCH);
  process.env.SYNAPTOROUTE_URL = `${node.url}/, ${NOBODY}`;
  process.env.SYNAPTOROUTE_API_KEY = "sr_env";
  try {
    await new Client().query("x");
  } finally {
    delete process.env.SYNAPTOROUTE_URL;
    delete process.env.SYNAPTOROUTE_API_KEY;
  }
  assert.equal(node.asked[0].headers.authorization, "Bearer sr_env");
});

test("the proxy of the tests loses answers that the server gave", async () => {
  const node = await server(WRITTEN);
  const proxy = await losing(node.url, 1);
  open.push(proxy);
  await client(proxy.url).deleteRoute("a");

  assert.equal(proxy.lost(), 1);
  assert.equal(node.asked.length, 2);
});

test("a bound client asks its route set and shares the rest", async () => {
  const written = { ...WRITTEN, headers: { "SR-Version": "1.4" } };
  const node = await server(MATCH, written, MATCH, WRITTEN);
  const own = client(node.url);
  const support = own.set("support@1 b");
  await support.query("x", { session: "s-1" });
  await support.putRoute({ name: "r", utterances: ["a"] }, { note: "größer" });
  await own.query("x");
  await support.putAlias("live", { set: "support@1 b", canary: "c", canary_share: 0.5 });
  const asked = node.asked.map((each) => `${each.method} ${each.url}`);

  assert.deepEqual(asked, [
    "POST /v1/sets/support%401%20b/query",
    "PUT /v1/sets/support%401%20b/routes/r",
    "POST /v1/query",
    "PUT /v1/aliases/live",
  ]);
  assert.equal(JSON.parse(node.asked[0].body).session, "s-1");
  assert.equal(Buffer.from(node.asked[1].headers["sr-note"], "latin1").toString(), "größer");
  assert.equal(node.asked[2].headers["sr-min-version"], "1.4");
});
