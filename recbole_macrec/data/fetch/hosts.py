"""Which hosts of the network answer: one that does not is found out in seconds, and once, not once for every file."""
from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

CONNECT = 4  # seconds for each address of a host
PATIENCE = 9  # seconds for a host in all; looking up a name knows no limit of its own
STRIKES = 3  # transfers without an answer in time, one after the other, before a host counts as gone


class Unreachable(requests.ConnectionError):
    """A host that does not answer; asking it for another file would only take time."""


class TooSlow(requests.Timeout):
    """A server that sends something now and then, so that no timeout of a connection ends the transfer."""


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
                host.tried, why = True, _why_not(*place)
                host.gone = why and f"no connection to {place[0]} ({why})"
        if host.gone:
            raise Unreachable(host.gone)

    def try_all(self, urls: Iterable[str]) -> None:
        """Try the hosts of ``urls`` at the same time, so that all take as long as one."""
        threads = [Thread(target=self._try, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def record(self, url: str, answered: bool) -> None:
        """Remember how a transfer went; after ``STRIKES`` failures in a row the host counts as gone."""
        place = _place(url)
        host = self._known(place)
        with host.lock:
            host.strikes = 0 if answered else host.strikes + 1
            if host.strikes >= STRIKES:
                host.gone = host.gone or f"{place[0]} did not answer in time {STRIKES} times in a row"

    def _try(self, url: str) -> None:
        try:
            self.check(url)
        except requests.RequestException:
            pass  # asking for the file says it again, with the file's name

    def _known(self, place: tuple[str, int]) -> _Host:
        with self._lock:
            return self._hosts[place]


class CheckedAdapter(HTTPAdapter):
    """Asks only hosts that answer, at every step of a redirection, and can hang up on them."""

    def __init__(self, hosts: Hosts, **arguments) -> None:
        self._reached = hosts
        self._sockets: WeakSet = WeakSet()
        super().__init__(**arguments)

    def init_poolmanager(self, *args, **arguments) -> None:
        super().init_poolmanager(*args, **arguments)
        self._remember_sockets(self.poolmanager)

    def proxy_manager_for(self, proxy, **arguments):
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **arguments)
        if not known:
            self._remember_sockets(manager)
        return manager

    def _remember_sockets(self, manager) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _remembering(pool, self._sockets) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def hang_up(self) -> None:
        """End every transfer, in whatever thread it waits."""
        for connection in list(self._sockets):
            with suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)

    def record(self, url: str, answered: bool) -> None:
        """Remember how the transfer of ``url`` went."""
        self._reached.record(url, answered)

    def send(self, request: requests.PreparedRequest, *args, **arguments) -> requests.Response:
        """Send the request; Unreachable at once where its host is known not to answer."""
        self._reached.check(request.url)
        return super().send(request, *args, **arguments)


def _remembering(pool: type, sockets: WeakSet) -> type:
    """``pool`` of urllib3, whose connections put their sockets into ``sockets``."""

    class Connection(pool.ConnectionCls):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


class TimeLimit:
    """Ends the transfers of a block, ``with TimeLimit(...) as limit``, when its time is over.

    Args:
        session: all its adapters are CheckedAdapters. Use it for this transfer alone: the limit closes every connection of it.
        url: of the file, whose host is remembered as one that answers or does not.
        seconds: until TooSlow is raised. They begin anew whenever ``limit.received`` has counted ``least`` bytes.
        least: None for a limit that nothing extends.
    """

    def __init__(self, session: requests.Session, url: str, seconds: float, least: int | None = None) -> None:
        self.passed = False
        self._adapter, self._url, self._seconds, self._least = session.get_adapter(url), url, seconds, least
        self._adapters = set(session.adapters.values())
        self._received, self._ended = 0, Event()

    def received(self, count: int) -> None:
        """Take note of ``count`` more bytes."""
        self._received += count
        if self._least is not None and self._received >= self._least:
            self._received, self._until = 0, time.monotonic() + self._seconds

    def __enter__(self) -> TimeLimit:
        self._until = time.monotonic() + self._seconds
        Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(max(0.5, self._until - time.monotonic())):
            self.passed = self.passed or time.monotonic() >= self._until
            if self.passed:  # again and again: a session tries again by itself
                for adapter in self._adapters:
                    adapter.hang_up()

    def __exit__(self, kind, error, traceback) -> None:
        self._ended.set()
        if not isinstance(error, Unreachable):
            self._adapter.record(self._url, not self.passed and not isinstance(error, requests.ConnectionError | requests.Timeout))
        if self.passed and (error is None or isinstance(error, requests.RequestException)):
            wanted = "the whole file" if self._least is None else f"{self._least:,} bytes"
            raise TooSlow(f"too slow: {wanted} did not come within {self._seconds} seconds") from error


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
