"""A proxy between dkmeans and an S3 server, which fails as servers and networks do."""

from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOST = "lost"
NO_ETAG = "no ETag"


def no_fault(method, path):
    return None


def first(times, name, fault="503", method="GET"):
    """Return a fault in the first requests of this method for objects of this name."""
    left = [times]

    def decide(requested, path):
        if requested != method or name not in path or not left[0]:
            return None
        left[0] -= 1
        return fault

    return decide


class Proxy(ThreadingHTTPServer):
    """Stands before an S3 server.

    `fault` is called with the method and the path of each request. It returns None; a status, with
    a code of S3 if need be ("403 ExpiredToken"), to be answered in place of the server; `LOST` to
    drop the server's answer; or `NO_ETAG` to drop its ETag.
    """

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = upstream
        self.fault = no_fault
        self.faults = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        proxy, body = self.server, self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = proxy.fault(self.command, self.path)
        if fault:
            proxy.faults.append((self.command, self.path))
        if fault in (None, LOST, NO_ETAG):
            upstream = HTTPConnection(proxy.upstream)
            upstream.request(self.command, self.path, body, dict(self.headers))
            response = upstream.getresponse()
            data, headers = response.read(), response.getheaders()
            upstream.close()
            if fault != LOST:
                self.answer(response.status, headers, data, {"etag"} if fault else set())
                return
            fault = "503"
        status, _, code = fault.partition(" ")
        error = f"<Code>{code}</Code>\n<Message>The message of {code}.</Message>" if code else ""
        # As S3 does, with a line of its own before the error.
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
        self.answer(int(status), [], text.encode(), set())

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815

    def answer(self, status, headers, data, dropped):
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of HEAD: the length of the object
            elif name.lower() not in {"transfer-encoding", "connection", *dropped}:
                self.send_header(name, value)
        self.send_header("content-length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    def log_message(self, *_):
        pass
