"""A client of an official Python SDK, told by a line of JSON what to do; answers each with a line.

Which SDK it is depends on the interpreter: 1.x and 2.x cannot be installed side by side.
"""

import asyncio
import json
import logging
import sys
from importlib.metadata import version


def said_of(error):
    """The error that says most: task groups wrap what happened in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    inner = getattr(error, "error", None)
    return {
        "code": getattr(inner, "code", None),
        "message": getattr(inner, "message", None) or str(error) or type(error).__name__,
        "data": getattr(inner, "data", None),
    }


async def session_1(url, commands):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(url) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            await obey(session, commands)


async def session_2(url, commands):
    from mcp.client import Client

    # By default it speaks 2026-07-28, which has no sessions.
    async with Client(url, mode="legacy") as client:
        await obey(client, commands)


async def obey(client, commands):
    say({"ok": "connected"})
    while (command := await commands.get()) is not None:
        try:
            result = await client.call_tool(command["tool"], command["arguments"])
            # A result that is an error is what a model would read.
            failed = getattr(result, "isError", None) or getattr(result, "is_error", None)
            say({"told" if failed else "ok": result.content[0].text})
        except Exception as error:
            say({"error": said_of(error)})


def say(what):
    print(json.dumps(what), flush=True)


async def main():
    logging.disable()
    commands = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def listen():
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
        loop.call_soon_threadsafe(commands.put_nowait, None)

    loop.run_in_executor(None, listen)
    session = session_1 if version("mcp").startswith("1.") else session_2
    while (command := await commands.get()) is not None:
        try:
            await session(command["url"], commands)
            return
        except BaseException as error:
            # The whole client is gone; it may be told to connect again.
            say({"error": said_of(error)})


asyncio.run(main())
