"""The clients: how they are installed and started, and how they are spoken to.

They are pinned beside this file, and installed below target/. Each is a process that takes JSON-RPC over its standard input:
some are bridges by themselves, the others are made bridges by bridge.py and bridge.mjs.
"""

import contextlib
import json
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INSTALLED = ROOT / "target" / "clients"
NODE = INSTALLED / "node" / "node_modules"
PATIENCE = 60


def in_python(name, package):
    return package, lambda url: [INSTALLED / name / "bin" / "python", HERE / "bridge.py", name, url]


def in_node(name, package):
    return package, lambda url: ["node", INSTALLED / "node" / "bridge.mjs", name, url]


CLIENTS = {
    "python_sdk": in_python("python_sdk", "mcp"),
    "python_sdk_2": in_python("python_sdk_2", "mcp"),
    "typescript_sdk": in_node("typescript_sdk", "@modelcontextprotocol/sdk"),
    "typescript_sdk_2": in_node("typescript_sdk_2", "@modelcontextprotocol/client"),
    "fastmcp": in_python("fastmcp", "fastmcp"),
    "langchain": in_python("langchain", "langchain-mcp-adapters"),
    "google_adk": in_python("google_adk", "google-adk"),
    "mcp_use": in_python("mcp_use", "mcp-use"),
    "ai_sdk": in_node("ai_sdk", "@ai-sdk/mcp"),
    "mcp_remote": ("mcp-remote", lambda url: ["node", NODE / "mcp-remote/dist/proxy.js", url, "--transport", "http-only"]),
    "supergateway": (
        "supergateway",
        lambda url: ["node", "--import", HERE / "pass-on.mjs", NODE / "supergateway/dist/index.js", "--streamableHttp", url],
    ),
}
# They pass on what their clients say, `initialize` first.
BRIDGES = ["mcp_remote", "supergateway"]


def install(names):
    """Installs the clients, unless they are there."""
    for name in names:
        pinned = HERE / f"{name}.txt"
        if not pinned.exists():
            continue
        folder = INSTALLED / name
        stamp = folder / "installed"
        if not stamp.exists() or stamp.read_bytes() != pinned.read_bytes():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--requirement", pinned], check=True)
            shutil.copy(pinned, stamp)
    lock = HERE / "package-lock.json"
    stamp = INSTALLED / "node" / "installed"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        for file in ["package.json", "package-lock.json"]:
            shutil.copy(HERE / file, stamp.parent)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=stamp.parent, check=True)
        shutil.copy(lock, stamp)
    # Beside the packages that it imports.
    shutil.copy(HERE / "bridge.mjs", stamp.parent)


def version(name):
    package = CLIENTS[name][0]
    pinned = HERE / f"{name}.txt"
    if pinned.exists():
        lines = pinned.read_text().splitlines()
        return f"{package} " + next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))
    return f"{package} " + json.loads((NODE / package / "package.json").read_text())["version"]


def build(example):
    """The path of an example's binary."""
    command = ["cargo", "build", "--locked", "--message-format=json", "-p", "rmcp-session-policy-examples"]
    built = subprocess.run([*command, "--example", example], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = (json.loads(line) for line in built.stdout.splitlines())
    return next(a["executable"] for a in artifacts if a.get("target", {}).get("name") == example and a["executable"])


@contextlib.contextmanager
def process(command, patience=PATIENCE, **options):
    running = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, **options)
    # What does not end by itself in time is ended, and its reader with it.
    timer = threading.Timer(patience, running.kill)
    timer.start()
    try:
        yield running
    finally:
        timer.cancel()
        running.kill()
        running.wait()


class Gone(Exception):
    """The process of a client has ended, or its call was answered with an error."""


class Client:
    """A client that runs. Its answers and notifications are read as they come."""

    def __init__(self, running, name):
        self.running = running
        self.heard = queue.Queue()
        self.ids = 0
        connected = Future()
        self.calls = {0: connected}
        threading.Thread(target=self.read, daemon=True).start()
        if name in BRIDGES:
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "client", "version": "1"}}
            self.send({"id": 0, "method": "initialize", "params": params})
        connected.result(PATIENCE)
        if name in BRIDGES:
            self.send({"method": "notifications/initialized"})
        # Nothing tells when its listening stream is open.
        time.sleep(2)

    def send(self, message):
        self.running.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.running.stdin.flush()

    def read(self):
        for line in self.running.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            if "method" in message:
                self.heard.put(message["method"])
            elif call := self.calls.pop(message.get("id"), None):
                call.set_result(message)
        for call in list(self.calls.values()):
            call.set_exception(Gone("the client has ended"))

    def begin(self, tool, **arguments):
        """Calls a tool. Gives a future of the answer."""
        self.ids += 1
        call = self.calls[self.ids] = Future()
        self.send({"id": self.ids, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        return call

    def call(self, tool, patience=PATIENCE, **arguments):
        """Calls a tool. Gives the text of the answer."""
        message = self.begin(tool, **arguments).result(patience)
        if "error" in message:
            raise Gone(message["error"]["message"])
        return message["result"]["content"][0]["text"]

    def hear(self, method, patience):
        """Whether a notification came in time."""
        deadline = time.monotonic() + patience
        with contextlib.suppress(queue.Empty):
            while self.heard.get(timeout=max(0, deadline - time.monotonic())) != method:
                pass
            return True
        return False


@contextlib.contextmanager
def started(name, url, patience=PATIENCE):
    """A client of a server. What it says on its standard error is logged below target/."""
    with (INSTALLED / f"{name}.log").open("a") as errors:
        command = CLIENTS[name][1](url)
        with process(command, patience, stdin=subprocess.PIPE, stderr=errors) as running:
            yield Client(running, name)
