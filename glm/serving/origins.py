"""Who may ask: a browser lets any page ask this machine, under any name that the page's owner gives to this machine's
address (DNS rebinding). So a request has to name the server by a name that it goes by, and a page has to be its own."""

import ipaddress
from urllib.parse import urlsplit

ANY = "*"
# Names that no domain's owner can point elsewhere.
OWN = frozenset({"localhost"})


def name_in(host):
    """The name in a Host header, without port, in lower case; "" if there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_address(name):
    """Whether a name is an address: these are nobody's to point elsewhere."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


class Origins:
    """Which hosts a server goes by, and whose pages may ask it. allowed: further names of it, "*" for any. foreign:
    origins of other pages, such as https://app.example, "*" for any."""

    def __init__(self, allowed=(), foreign=()):
        self.allowed = {name.lower() for name in allowed} | OWN
        self.foreign = {origin.lower().rstrip("/") for origin in foreign}

    def is_own(self, host):
        """Whether a Host header names this server."""
        name = name_in(host)
        return ANY in self.allowed or name in self.allowed or is_address(name)

    def objection(self, host, origin):
        """Why a request with these headers (texts, None where absent) is not answered, None if it is."""
        if not self.is_own(host or ""):
            return f"the host {(host or '')[:100]!r} is none of this server's; --allowed_hosts names those that are"
        if origin is None or ANY in self.allowed | self.foreign or origin.lower() in self.foreign:
            return None
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            place = ""
        if place.lower() == host.lower() or (name_in(place) in self.allowed - OWN):
            return None
        return f"pages of {origin[:100]!r} may not ask this server; --allowed_origins names those that may"
