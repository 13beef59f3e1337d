// A client of an official TypeScript SDK, told by a line of JSON what to do; answers each with a line.
// Usage: node typescript.mjs 1|2, from the folder that has the SDKs in its node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const sdk =
  process.argv[2] === "1"
    ? { ...(await load("@modelcontextprotocol/sdk/client/index.js")), ...(await load("@modelcontextprotocol/sdk/client/streamableHttp.js")) }
    : await load("@modelcontextprotocol/client");

let client;

const act = {
  connect: async ({ url }) => {
    client = new sdk.Client({ name: "test", version: "1" });
    await client.connect(new sdk.StreamableHTTPClientTransport(new URL(url)));
    return "connected";
  },
  call: ({ tool, arguments: given }) => client.callTool({ name: tool, arguments: given }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let said;
  try {
    const result = await act[command.do](command);
    // A result that is an error is what a model would read.
    const text = result.content?.[0].text ?? result;
    said = result.isError ? { told: text } : { ok: text };
  } catch (error) {
    said = { error: { code: error.code ?? null, message: String(error.message), data: error.data ?? null } };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
process.exit(0);
