/** Servers on loopback for the tests. */

import { once } from "node:events";
import http from "node:http";

/** A server with prepared answers, the last of them for ever; records what was asked. */
export async function scripted(...answers) {
  const asked = [];
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    asked.push({ method: request.method, url: request.url, headers: request.headers, body });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer === "lost") return request.socket.destroy();
    if (answer === "silent") return undefined;
    const { status = 200, document, headers = {} } = answer;
    const text = typeof document === "string" ? document : JSON.stringify(document);
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    return response.end(text);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    asked,
    url: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A proxy that forwards every request and loses the first answers. */
export async function losing(target, count) {
  let left = count;
  const server = http.createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const { host, connection, ...headers } = request.headers;
    const answer = await fetch(target + request.url, {
      method: request.method,
      headers,
      body: pieces.length > 0 ? Buffer.concat(pieces) : null,
    });
    const text = await answer.text();
    if (left > 0) {
      left -= 1;
      return request.socket.destroy();
    }
    response.writeHead(answer.status, { "SR-Version": answer.headers.get("sr-version") ?? "" });
    return response.end(text);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    lost: () => count - left,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A problem document as a node sends it. */
export function problem(status, code, fields = {}, headers = {}) {
  return {
    status,
    headers: { "X-Request-Id": "r1", "SR-Node": "n1", ...headers },
    document: { status, code, detail: `about ${code}`, ...fields },
  };
}
