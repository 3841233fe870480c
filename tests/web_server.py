"""A local web server that can fail, break connections, be slow, redirect and answer range requests."""
import io
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def image_bytes(kind="JPEG", size=(40, 30), seed=1) -> bytes:
    """Return an image of random noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Web server of ``files``.

    Attributes:
        failures: path -> number of responses 503 before it works.
        breaks: path -> number of transfers, after these, that end early.
        redirects: path -> target of a redirect.
        slow: path -> seconds before the response.
        headers: path -> additional headers.
        drips: path -> bytes that are sent at once; the others follow one every 0.1 s.
    """

    request_queue_size = 64  # with a full queue, clients wait a second before they try again

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.failures, self.breaks, self.redirects, self.slow, self.headers = {}, {}, {}, {}, {}, {}
        self.drips = {}
        self.etag, self.requested = '"one"', []

    def handle_error(self, request, client_address):
        """Ignore connections closed by killed clients."""

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        server.requested.append((path, self.headers.get("Range")))
        if path in server.drips:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(server.files[path]) + server.files[path]
            self.wfile.write(answer[: server.drips[path]])
            for byte in answer[server.drips[path] :]:
                time.sleep(0.1)
                self.wfile.write(bytes([byte]))
            return
        time.sleep(server.slow.get(path, 0))
        if path in server.redirects:
            return self._send(302, b"", {"Location": server.redirects[path]})
        if server.failures.get(path, 0):
            server.failures[path] -= 1
            return self._send(503, b"")
        if path not in server.files:
            return self._send(404, b"")
        content, status, extra = server.files[path], 200, {}
        byte_range = self.headers.get("Range")
        if byte_range and self.headers.get("If-Range") == server.etag:
            begin = int(byte_range.removeprefix("bytes=").rstrip("-"))
            if begin >= len(content):
                return self._send(416, b"")
            extra["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            content, status = content[begin:], 206
        self._send(status, content, extra | {"ETag": server.etag, **server.headers})

    def _send(self, status, content, headers=()):
        server, path = self.server, self.path.lstrip("/")
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status in (200, 206) and server.breaks.get(path, 0):
            server.breaks[path] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *args):
        pass
