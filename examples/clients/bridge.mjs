// A client written in JavaScript, as a bridge. `bridge.mjs CLIENT URL` connects, and calls a tool for each JSON-RPC request
// `tools/call` on its standard input. It prints the answers, each with the id of its request, and the notifications that it
// hears. The first line that it prints answers the request 0.

import { createInterface } from "node:readline";

const [client, url] = process.argv.slice(2);
const say = (message) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\n");
const pass = (method) => method?.startsWith("notifications/") && say({ method });

async function connect({ Client, StreamableHTTPClientTransport }) {
  const client = new Client({ name: "bridge", version: "1" });
  client.fallbackNotificationHandler = async ({ method }) => pass(method);
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  return (name, given) => client.callTool({ name, arguments: given });
}

const clients = {
  async typescript_sdk() {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    return connect({ Client, StreamableHTTPClientTransport });
  },

  async typescript_sdk_2() {
    return connect(await import("@modelcontextprotocol/client"));
  },

  async ai_sdk() {
    const { createMCPClient } = await import("@ai-sdk/mcp");
    // Otherwise it opens no session.
    const client = await createMCPClient({ transport: { type: "http", url }, protocolVersionDiscovery: false });
    // It takes no handler for notifications.
    const { onmessage } = client.transport;
    client.transport.onmessage = (message) => {
      pass(message.method);
      onmessage(message);
    };
    const tools = await client.tools();
    return (name, given) => tools[name].execute(given, { toolCallId: "1", messages: [] });
  },
};

const call = await clients[client]();
say({ id: 0, result: {} });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, params } = JSON.parse(line);
  // Not awaited: a call may be under way while others are made.
  call(params.name, params.arguments).then(
    (result) => say({ id, result }),
    (error) => say({ id, error: { message: String(error.message) } }),
  );
}
process.exit();
