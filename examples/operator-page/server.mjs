// The example server as a process, and clients of it that speak raw HTTP.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Starts the server. `stop()` ends it, and returns what it logged. */
export async function start(binary, ...flags) {
  const child = spawn(binary, ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", ...flags], { stdio: ["ignore", "pipe", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  let logs = "";
  child.stderr.on("data", (text) => { logs += text; });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const line = async (begin) => {
    const { value } = await lines.next();
    if (!value?.startsWith(begin)) throw new Error(`the server said ${value}, and logged ${logs}`);
    return value.slice(begin.length);
  };
  const url = await line("listening on ");
  const admin = await line("admin on ");
  const stop = async () => {
    child.kill("SIGKILL");
    await ended;
    return logs;
  };
  return { url, admin, stop };
}

/** One session. Its id stays in here, for the scan. */
export class Session {
  constructor(url, headers) {
    this.url = url;
    this.headers = headers;
    this.next = 1;
  }

  /** Opens a session of a client's software, a principal and an address. */
  static async open(url, { name = "raw", version = "1.0", user, address } = {}) {
    const headers = {};
    if (user) headers["x-user"] = user;
    if (address) headers["x-forwarded-for"] = address;
    const session = new Session(url, headers);
    const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name, version } };
    const answer = await session.send({ id: session.next++, method: "initialize", params });
    if (answer.status !== 200) throw new Error(`initialize was answered with ${answer.status}: ${await answer.text()}`);
    session.id = answer.headers.get("mcp-session-id");
    await answer.text();
    await (await session.send({ method: "notifications/initialized" })).text();
    return session;
  }

  send(message, signal) {
    const headers = { ...this.headers, "content-type": "application/json", accept: "application/json, text/event-stream" };
    if (this.id) Object.assign(headers, { "mcp-session-id": this.id, "mcp-protocol-version": "2025-11-25" });
    return fetch(this.url, { method: "POST", headers, body: JSON.stringify({ jsonrpc: "2.0", ...message }), signal });
  }

  /** Calls a tool. Returns the status, and the text of the answer. */
  async call(name, args = {}) {
    const answer = await this.send({ id: this.next++, method: "tools/call", params: { name, arguments: args } });
    return [answer.status, await answer.text()];
  }

  /** Opens a listening stream, and leaves it open. */
  async listen() {
    const hangUp = new AbortController();
    const headers = { ...this.headers, accept: "text/event-stream", "mcp-session-id": this.id, "mcp-protocol-version": "2025-11-25" };
    const answer = await fetch(this.url, { headers, signal: hangUp.signal });
    if (answer.status !== 200) throw new Error(`GET was answered with ${answer.status}`);
    answer.body.pipeTo(new WritableStream()).catch(() => {});
    return () => hangUp.abort();
  }
}
