"""A reverse proxy in front of a server, under a path of its own, as nginx has it with `location /glm/`."""

import http.client
import http.server
import threading
from urllib.parse import urlsplit

PREFIX = "/glm/"


class Proxied:
    """A proxy of the server at an address; url is the proxied one. Bytes are passed on as they come."""

    def __init__(self, address):
        upstream = urlsplit(address).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            """Passes a request on, its Host header included."""

            def forward(self):
                """Answer with what the server answers; what is not under the prefix does not exist."""
                if not self.path.startswith(PREFIX):
                    return self.send_error(404)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection(upstream)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path.removeprefix(PREFIX.rstrip("/")), body, headers)
                response = connection.getresponse()
                self.send_response(response.status)
                for name in ("Content-Type", "Content-Security-Policy"):
                    if name in response.headers:
                        self.send_header(name, response.headers[name])
                self.end_headers()
                while content := response.read1():
                    self.wfile.write(content)
                return connection.close()

            do_GET = do_HEAD = do_POST = forward

            def log_message(self, *arguments):
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{PREFIX}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()
