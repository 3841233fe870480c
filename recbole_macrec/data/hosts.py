"""Which hosts of the network answer: one that does not is found out in seconds, and once, not once for every file."""
from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock, Thread
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

CONNECT = 4  # seconds for each address of a host
PATIENCE = 9  # seconds for a host in all; looking up a name knows no limit of its own
STRIKES = 3  # connections that fail one after the other before a host counts as gone


class Unreachable(requests.ConnectionError):
    """A host that does not answer; asking it for another file would only take time."""


@dataclass
class _Host:
    lock: Lock = field(default_factory=Lock)
    tried: bool = False
    gone: str = ""  # why nobody should ask again
    strikes: int = 0


class Hosts:
    """What is known of the hosts asked so far. Threads may share one."""

    def __init__(self) -> None:
        self._hosts: defaultdict[tuple[str, int], _Host] = defaultdict(_Host)
        self._lock = Lock()

    def check(self, url: str) -> None:
        """Raise Unreachable unless the host of ``url``, or the proxy to it, takes connections."""
        place = _place(url)
        host = self._known(place)
        with host.lock:
            if not host.tried:
                host.tried, host.gone = True, _why_not(*place)
        if host.gone:
            raise Unreachable(f"no connection to {place[0]} ({host.gone})")

    def try_all(self, urls: Iterable[str]) -> None:
        """Try the hosts of ``urls`` at the same time, so that all take as long as one."""
        threads = [Thread(target=self._try, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def record(self, url: str, connected: bool) -> None:
        """Remember how a transfer went; after ``STRIKES`` failures in a row the host counts as gone."""
        host = self._known(_place(url))
        with host.lock:
            host.strikes = 0 if connected else host.strikes + 1
            if host.strikes >= STRIKES:
                host.gone = host.gone or f"{STRIKES} connections failed one after the other"

    def _try(self, url: str) -> None:
        try:
            self.check(url)
        except requests.RequestException:
            pass  # asking for the file says it again, with the file's name

    def _known(self, place: tuple[str, int]) -> _Host:
        with self._lock:
            return self._hosts[place]


class CheckedAdapter(HTTPAdapter):
    """Asks only hosts that answer, at every step of a redirection."""

    def __init__(self, hosts: Hosts, **arguments) -> None:
        self._reached = hosts
        super().__init__(**arguments)

    def send(self, request: requests.PreparedRequest, *args, **arguments) -> requests.Response:
        """Send the request; Unreachable at once where its host is known not to answer."""
        self._reached.check(request.url)
        try:
            answer = super().send(request, *args, **arguments)
        except requests.ConnectionError:
            self._reached.record(request.url, connected=False)
            raise
        self._reached.record(request.url, connected=True)
        return answer


def _place(url: str) -> tuple[str, int]:
    """Return host and port that a request for ``url`` connects to."""
    proxy = select_proxy(url, get_environ_proxies(url))
    parts = urlsplit(url if not proxy else proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        raise requests.exceptions.InvalidURL(f"{url} has no usable port") from None
    if not parts.hostname:
        raise requests.exceptions.InvalidURL(f"{url} names no host")
    return parts.hostname, port


def _why_not(host: str, port: int) -> str:
    """Return why no connection can be made, or an empty text."""
    found: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT).close()
            found.append("")
        except (OSError, UnicodeError) as error:
            found.append("its name can't be resolved" if isinstance(error, socket.gaierror | UnicodeError) else
                         "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error).lower())

    # A daemon: the look-up of a name may hang for minutes, and must not keep the process from ending.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f"no answer in {PATIENCE} seconds"
