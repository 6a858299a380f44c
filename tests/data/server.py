"""A local HTTP server that can do what servers of data sets do: ranges, none, errors, and stopping half-way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What lies on the server and how it behaves.

    Attributes:
        files: content by path.
        stop_after: send at most so many bytes of an answer, then close.
        ranges: whether `Range` is honoured.
        requests: the `Range` header of every request so far.
        url: of the server.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    stop_after: int | None = None
    ranges: bool = True
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append(self.headers["Range"] or "")
            content = served.files.get(self.path.lstrip("/"))
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if served.ranges else 0
            if content is None:
                self.send_error(404)
                return
            if served.ranges and start >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if served.ranges else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: served.stop_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
