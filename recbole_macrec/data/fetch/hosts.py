"""Check which hosts are reachable, so that an unreachable host costs seconds once, not for every file."""
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
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connectionpool import HTTPConnectionPool

ADDRESS_TIMEOUT = 4  # seconds to connect to each IP address of a host
HOST_TIMEOUT = 9  # seconds to connect to a host in total, because name resolution has no timeout
MAX_FAILURES = 3  # consecutive transfers without a response in time after which a host is unreachable


class Unreachable(requests.ConnectionError):
    """The host does not respond; further requests to it would only take time."""


class TooSlow(requests.Timeout):
    """The server sends too little data, although often enough that the connection does not time out."""


@dataclass
class _Host:
    lock: Lock = field(default_factory=Lock)
    checked: bool = False
    unreachable: str = ""  # reason why it is unreachable, "" if it is reachable
    failures: int = 0  # consecutive transfers without a response in time


class Hosts:
    """Record which hosts are reachable; may be shared by threads."""

    def __init__(self) -> None:
        self._hosts: defaultdict[tuple[str, int], _Host] = defaultdict(_Host)
        self._lock = Lock()

    def check(self, url: str) -> None:
        """Raise Unreachable unless the host of ``url``, or the proxy for it, accepts connections."""
        address = _address(url)
        host = self._host(address)
        with host.lock:
            if not host.checked:
                host.checked, reason = True, _connection_failure(*address)
                host.unreachable = reason and f"no connection to {address[0]} ({reason})"
        if host.unreachable:
            raise Unreachable(host.unreachable)

    def check_all(self, urls: Iterable[str]) -> None:
        """Check the hosts of ``urls`` in parallel; unreachable ones raise no error here, but in the transfer."""
        threads = [Thread(target=self._try, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def record(self, url: str, answered: bool) -> None:
        """Record the result of a transfer; after ``MAX_FAILURES`` consecutive failures the host is unreachable."""
        address = _address(url)
        host = self._host(address)
        with host.lock:
            host.failures = 0 if answered else host.failures + 1
            if host.failures >= MAX_FAILURES:
                host.unreachable = host.unreachable or f"{address[0]} did not answer in time {MAX_FAILURES} times in a row"

    def _try(self, url: str) -> None:
        try:
            self.check(url)
        except requests.RequestException:
            pass  # the download raises it again, with the name of the file

    def _host(self, address: tuple[str, int]) -> _Host:
        with self._lock:
            return self._hosts[address]


class CheckedAdapter(HTTPAdapter):
    """Send requests and redirected requests only to reachable hosts; another thread can end open transfers."""

    def __init__(self, hosts: Hosts, **arguments) -> None:
        self._hosts = hosts
        self._sockets: WeakSet = WeakSet()
        super().__init__(**arguments)

    def init_poolmanager(self, *args, **arguments) -> None:
        super().init_poolmanager(*args, **arguments)
        self._track_sockets(self.poolmanager)

    def proxy_manager_for(self, proxy, **arguments):
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **arguments)
        if not known:
            self._track_sockets(manager)
        return manager

    def _track_sockets(self, manager) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _tracking_sockets(pool, self._sockets) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def close_connections(self) -> None:
        """End all transfers, in any thread."""
        for connection in list(self._sockets):
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    def record(self, url: str, answered: bool) -> None:
        """Record the result of the transfer of ``url``."""
        self._hosts.record(url, answered)

    def send(self, request: requests.PreparedRequest, *args, **arguments) -> requests.Response:
        """Send the request; raise Unreachable, without sending it, if its host is known to be unreachable."""
        self._hosts.check(request.url or "")
        return super().send(request, *args, **arguments)


def _tracking_sockets(pool: type[HTTPConnectionPool], sockets: WeakSet) -> type:
    """Return a subclass of ``pool``, a connection pool of urllib3, that adds the sockets of its connections to ``sockets``."""

    connection_class = pool.ConnectionCls

    def connect(connection) -> None:
        connection_class.connect(connection)
        sockets.add(connection.sock)

    tracked = type(connection_class.__name__, (connection_class,), {"connect": connect})
    return type(pool.__name__, (pool,), {"ConnectionCls": tracked})


class TimeLimit:
    """Limit the time of the transfers in a block: ``with TimeLimit(...) as limit``.

    Args:
        session: a session with only CheckedAdapters. It must have no other transfers, because all its connections are closed.
        url: URL of the file; the result is recorded for its host.
        seconds: time until TooSlow is raised. It starts again whenever ``limit.received`` has counted ``least`` bytes.
        least: None for a fixed limit.
    """

    def __init__(self, session: requests.Session, url: str, seconds: float, least: int | None = None) -> None:
        self.passed = False
        self._adapter, self._adapters = _checked(session.get_adapter(url)), set(map(_checked, session.adapters.values()))
        self._url, self._seconds, self._least = url, seconds, least
        self._received, self._ended = 0, Event()

    def received(self, count: int) -> None:
        """Count ``count`` more bytes."""
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
            if self.passed:  # repeatedly, because the session retries
                for adapter in self._adapters:
                    adapter.close_connections()

    def __exit__(self, kind, error, traceback) -> None:
        self._ended.set()
        if not isinstance(error, Unreachable):
            self._adapter.record(
                self._url, not self.passed and not isinstance(error, requests.ConnectionError | requests.Timeout)
            )
        if self.passed and (error is None or isinstance(error, requests.RequestException)):
            expected = "the whole file" if self._least is None else f"{self._least:,} bytes"
            raise TooSlow(f"too slow: {expected} did not arrive within {self._seconds} seconds") from error


def _address(url: str) -> tuple[str, int]:
    """Return the host and port that a request for ``url`` connects to, those of a proxy if there is one."""
    try:
        proxy = select_proxy(url, get_environ_proxies(url))
        parts = urlsplit(url if not proxy else proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        raise requests.exceptions.InvalidURL(f"{url} has no valid host or port") from None
    if not parts.hostname:
        raise requests.exceptions.InvalidURL(f"{url} has no host")
    return parts.hostname, port


def _connection_failure(host: str, port: int) -> str:
    """Return the reason why a connection fails, or ""."""
    result: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=ADDRESS_TIMEOUT).close()
            result.append("")
        except (OSError, UnicodeError) as error:
            result.append("its name cannot be resolved" if isinstance(error, socket.gaierror | UnicodeError) else
                          "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error).lower())

    # A daemon thread, because name resolution may hang for minutes and must not delay the end of the process.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(HOST_TIMEOUT)
    return result[0] if result else f"no answer in {HOST_TIMEOUT} seconds"


def _checked(adapter: BaseAdapter) -> CheckedAdapter:
    if not isinstance(adapter, CheckedAdapter):
        raise TypeError(f"the session has a {type(adapter).__name__}; expected only CheckedAdapters, as in new_session")
    return adapter
