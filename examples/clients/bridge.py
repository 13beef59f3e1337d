"""A client written in Python, as a bridge. `bridge.py CLIENT URL` connects, and calls a tool for each JSON-RPC request
`tools/call` on its standard input. It prints the answers, each with the id of its request, and the notifications that it
hears. The first line that it prints answers the request 0."""

import asyncio
import functools
import json
import os
import sys

CLIENT, URL = sys.argv[1:]
# Some clients log to the standard output.
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"


def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), file=OUT, flush=True)


async def on_message(message):
    """SDK 1 wraps a notification in a root model."""
    method = getattr(getattr(message, "root", message), "method", None) or ""
    if method.startswith("notifications/"):
        say(method=method)


async def answer(id, calling):
    try:
        result = await calling
        # langchain gives the content alone.
        content = result if isinstance(result, list) else result.content
        texts = [part if isinstance(part, dict) else {"text": part.text} for part in content]
        failed = getattr(result, "isError", False) or getattr(result, "is_error", False)
        say(id=id, result={"content": texts, "isError": failed})
    except Exception as error:
        say(id=id, error={"message": str(error) or type(error).__name__})


async def serve(call):
    say(id=0, result={})
    loop = asyncio.get_running_loop()
    under_way = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        message = json.loads(line)
        params = message["params"]
        # Not awaited: a call may be under way while others are made.
        task = loop.create_task(answer(message["id"], call(params["name"], params["arguments"])))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def python_sdk():
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(URL) as (read, write, _):
        async with ClientSession(read, write, message_handler=on_message) as session:
            await session.initialize()
            await serve(session.call_tool)


async def python_sdk_2():
    from mcp.client import Client

    # Otherwise it opens no session.
    async with Client(URL, message_handler=on_message, mode="legacy") as client:
        await serve(client.call_tool)


async def fastmcp():
    from fastmcp import Client

    # Otherwise it opens no session.
    async with Client(URL, message_handler=on_message, mode="legacy") as client:
        await serve(functools.partial(client.call_tool, raise_on_error=False))


async def langchain():
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.tools import load_mcp_tools

    connection = {"transport": "streamable_http", "url": URL, "session_kwargs": {"message_handler": on_message}}
    async with MultiServerMCPClient({"server": connection}).session("server") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        await serve(lambda name, given: tools[name].ainvoke(given))


async def google_adk():
    from google.adk.tools.mcp_tool import session_context
    from google.adk.tools.mcp_tool.mcp_session_manager import StreamableHTTPConnectionParams
    from google.adk.tools.mcp_tool.mcp_toolset import McpToolset

    # It takes no handler for messages of its own.
    session_context.ClientSession = functools.partial(session_context.ClientSession, message_handler=on_message)
    toolset = McpToolset(connection_params=StreamableHTTPConnectionParams(url=URL))
    await toolset.get_tools()

    async def call(name, given):
        session = await toolset._mcp_session_manager.create_session()
        return await session.call_tool(name, arguments=given)

    await serve(call)
    await toolset.close()


async def mcp_use():
    from mcp_use import MCPClient

    client = MCPClient({"mcpServers": {"server": {"url": URL}}}, message_handler=on_message)
    session = await client.create_session("server")
    await serve(session.call_tool)
    await client.close_all_sessions()


asyncio.run(globals()[CLIENT]())
