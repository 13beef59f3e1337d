"""A client written in Python that listens. `listen.py CLIENT URL`: for each line on its standard input it calls the tool
`announce`, and prints how many of its notifications came."""

import asyncio
import functools
import os
import sys

CLIENT, URL = sys.argv[1:]
# Some clients log to the standard output.
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"
heard = 0


async def on_message(message):
    """Counts. SDK 1 wraps a notification in a root model."""
    global heard
    heard += getattr(getattr(message, "root", message), "method", None) == "notifications/resources/list_changed"


async def turns(announce):
    global heard
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        heard = 0
        await announce()
        for _ in range(50):
            if heard == 5:
                break
            await asyncio.sleep(0.1)
        print(heard, file=OUT, flush=True)


async def python_sdk():
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(URL) as (read, write, _):
        async with ClientSession(read, write, message_handler=on_message) as session:
            await session.initialize()
            await turns(lambda: session.call_tool("announce"))


async def fastmcp():
    from fastmcp import Client

    # Otherwise it opens no session.
    async with Client(URL, message_handler=on_message, mode="legacy") as client:
        await turns(lambda: client.call_tool("announce"))


async def langchain():
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.tools import load_mcp_tools

    connection = {"transport": "streamable_http", "url": URL, "session_kwargs": {"message_handler": on_message}}
    async with MultiServerMCPClient({"news": connection}).session("news") as session:
        [tool] = await load_mcp_tools(session)
        await turns(lambda: tool.ainvoke({}))


async def google_adk():
    from google.adk.tools.mcp_tool import session_context
    from google.adk.tools.mcp_tool.mcp_session_manager import StreamableHTTPConnectionParams
    from google.adk.tools.mcp_tool.mcp_toolset import McpToolset

    # It takes no handler for messages of its own.
    session_context.ClientSession = functools.partial(session_context.ClientSession, message_handler=on_message)
    toolset = McpToolset(connection_params=StreamableHTTPConnectionParams(url=URL))
    await toolset.get_tools()

    async def announce():
        session = await toolset._mcp_session_manager.create_session()
        await session.call_tool("announce", arguments={})

    await turns(announce)
    await toolset.close()


async def mcp_use():
    from mcp_use import MCPClient

    client = MCPClient({"mcpServers": {"news": {"url": URL}}}, message_handler=on_message)
    session = await client.create_session("news")
    await turns(lambda: session.call_tool("announce", {}))
    await client.close_all_sessions()


asyncio.run(globals()[CLIENT]())
