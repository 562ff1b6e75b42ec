"""A real nginx in front of a server, configured as docs/en/serving.md says, on a free port of this machine."""

import re
import shutil
import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest

from tests.helpers import ROOT

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(not NGINX, reason="no nginx: apt-get install nginx-light")
# What nginx needs around it to run beside others, as nobody in particular.
FRAME = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""


def documented():
    """The location of the documents."""
    text = (ROOT / "docs" / "en" / "serving.md").read_text(encoding="utf8")
    return re.search(r"location /glm/ \{.*?\n\}", text, re.DOTALL).group()


class Nginx:
    """nginx in front of the server at an address; url is the proxied one. idle: seconds after which it takes a silent
    server for dead."""

    def __init__(self, address, directory, idle):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        location = documented().replace("127.0.0.1:8000", urlsplit(address).netloc)
        location, count = re.subn(r"proxy_read_timeout \d+s", f"proxy_read_timeout {idle}s", location)
        assert count == 1
        path = directory / "nginx.conf"
        path.write_text(FRAME.format(directory=directory, port=port, location=location))
        self.url, self.port = f"http://127.0.0.1:{port}/glm/", port
        self.process = subprocess.Popen([NGINX, "-c", path, "-p", directory], stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError("nginx does not listen")

    def __exit__(self, *exception):
        self.process.terminate()
        self.process.wait(20)
