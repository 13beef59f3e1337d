// A client written in JavaScript that listens. `listen.mjs CLIENT URL`: for each line on its standard input it calls the
// tool `announce`, and prints how many of its notifications came.

import { createInterface } from "node:readline";

const [client, url] = process.argv.slice(2);
let heard = 0;
const count = (method) => (heard += method === "notifications/resources/list_changed");

const clients = {
  async typescript_sdk() {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const client = new Client({ name: "listens", version: "1" });
    client.fallbackNotificationHandler = async ({ method }) => count(method);
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    return () => client.callTool({ name: "announce", arguments: {} });
  },

  async ai_sdk() {
    const { createMCPClient } = await import("@ai-sdk/mcp");
    // Otherwise it opens no session.
    const client = await createMCPClient({ transport: { type: "http", url }, protocolVersionDiscovery: false });
    // It takes no handler for notifications.
    const { onmessage } = client.transport;
    client.transport.onmessage = (message) => {
      count(message.method);
      onmessage(message);
    };
    const { announce } = await client.tools();
    return () => announce.execute({}, { toolCallId: "1", messages: [] });
  },
};

const announce = await clients[client]();
for await (const _ of createInterface({ input: process.stdin })) {
  heard = 0;
  await announce();
  for (let tries = 0; heard < 5 && tries < 50; tries++) await new Promise((wake) => setTimeout(wake, 100));
  console.log(heard);
}
process.exit();
