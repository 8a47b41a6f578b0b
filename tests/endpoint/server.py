"""A real HTTP server here that speaks OpenAI's chat completions, and misbehaves on order.

`faults` are worked off first, one a request: ("status", code, headers, body), "timeout", "garbage",
"hangup", "cut". After those, `answer(body)` gives the reply's text, or a fault for this request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    def __init__(self, answer: Callable[[dict[str, Any]], Any] = lambda body: "hello") -> None:
        self.answer = answer
        self.faults: list[Any] = []
        self.bodies: list[dict[str, Any]] = []  # of all requests, as they came
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.answered: list[str] = []  # hash of each body whose answer was sent whole
        self.delay_s = 0.0
        self.silence_s = 1.5  # of a "timeout"
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        handler = type("Handler", (_Handler,), {"server_of": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def hashes(self) -> list[str]:
        return [body_hash(body) for body in self.bodies]


def body_hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server_of: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server_of
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            fault = server.faults.pop(0) if server.faults else None
        try:
            time.sleep(server.delay_s)
            if self.path != "/v1/chat/completions":
                fault = ("status", 404, {}, "no such path")
            self._send(body, fault if fault is not None else server.answer(body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.under_way -= 1

    def _send(self, body: dict[str, Any], what: Any) -> None:
        if what == "timeout":
            time.sleep(self.server_of.silence_s)
            self.close_connection = True
        elif what == "hangup":
            self.close_connection = True
        elif what == "garbage":
            self._write(200, {}, "<html>our proxy says hello</html>")
        elif what == "cut":
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [')
            self.close_connection = True
        elif isinstance(what, tuple):
            _, code, headers, text = what
            self._write(code, headers, text)
        else:
            reply = {
                "choices": [{"message": {"role": "assistant", "content": what}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
            self._write(200, {}, json.dumps(reply))
            with self.server_of.lock:
                self.server_of.answered.append(body_hash(body))

    def _write(self, code: int, headers: dict[str, str], text: str) -> None:
        content = text.encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # a client was killed
            super().handle()

    def log_message(self, *args: Any) -> None:
        pass
