"""Files from the network: mirrors, retries, resumed transfers, checksums, size limits."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests
from tqdm import tqdm
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError
from urllib3.util import Retry

from recbole_macrec.data.fetch.hosts import CheckedAdapter, Hosts, TimeLimit, TooSlow, Unreachable
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import sha256_of, writing

CHUNK = 2**16  # bytes of a piece; a transfer that breaks off loses at most one
TIMEOUT = (10, 30)  # seconds to connect, and between two packets of the answer
SECONDS = 60  # for every CHUNK of a file, attempts and the answer before it included
ATTEMPTS = 5  # transfers that break off, each going on where the last one stopped
REDIRECTIONS = 5
BUSY = (408, 429, 500, 502, 503, 504)


class Remote(NamedTuple):
    """A file on the network."""

    urls: tuple[str, ...]  # mirrors, tried in this order
    sha256: str | None = None
    max_bytes: int = 2**36


class Refused(Exception):
    """What came is not what was asked for, and asking again would not help."""


class Busy(Refused):
    """The server does not give it now, but may later."""


class DownloadError(UserError):
    """No mirror gave a file; ``reasons`` has why, for each address."""

    def __init__(self, message: str, reasons: dict[str, str]) -> None:
        super().__init__(message)
        self.reasons = reasons


def new_session(hosts: Hosts | None = None) -> requests.Session:
    """A session for http and https alone that tries again, with growing pauses, when a server is busy or fails.

    Args:
        hosts: shared by sessions, so that a host that does not answer is asked by one of them only.
    """
    # A server's own Retry-After could be hours.
    retries = _Retry(total=ATTEMPTS, connect=1, read=2, backoff_factor=0.3, status_forcelist=BUSY, raise_on_status=False,
                    respect_retry_after_header=False)
    session = requests.Session()
    session.adapters.clear()
    session.max_redirects = REDIRECTIONS
    for scheme in ("http://", "https://"):
        session.mount(scheme, CheckedAdapter(hosts or Hosts(), max_retries=retries))
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges then count the file's own bytes
    return session


class _Retry(Retry):
    """Without another wait for a server that is silent."""

    def increment(self, *args, error=None, **arguments):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(*args, error=error, **arguments)


def check_status(answer: requests.Response, *good: int) -> None:
    """Raise Refused, or Busy where asking later may help, unless the status is one of ``good``."""
    if answer.status_code not in good:
        raise (Busy if answer.status_code in BUSY else Refused)(f"the server answers {answer.status_code}")


def fetch(remote: Remote, target: Path, session: requests.Session | None = None, show_progress: bool = True) -> Path:
    """Download to ``target`` unless it is there; a transfer that was killed goes on where it stopped.

    Raises:
        DownloadError: when no mirror gave the file.
    """
    if target.exists():
        _forget(target)  # a run was killed when it had just put it there
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target):
        return _fetch(remote, target, session or new_session(), show_progress)


def _fetch(remote: Remote, target: Path, session: requests.Session, show_progress: bool) -> Path:
    reasons = {}
    for url in remote.urls:
        try:
            part = _transfer(url, target, remote, session, show_progress)
            if remote.sha256 and (found := sha256_of(part)) != remote.sha256:
                _forget(target)
                raise Refused(f"its SHA-256 is {found[:12]}..., expected {remote.sha256[:12]}...")
            os.replace(part, target)
            _forget(target)
            return target
        except (requests.RequestException, Refused) as error:
            reasons[url] = reason(error)
    why = "; ".join(f"{url}: {text}" for url, text in reasons.items()) or "no address is known"
    raise DownloadError(f"could not download {target.name} ({why}); put the file at {target} yourself, or name a mirror that "
                        "has it", reasons)


def pieces(answer: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they are on the server: some send .gz files as compressed content, which requests would unpack."""
    try:
        yield from answer.raw.stream(CHUNK, decode_content=False)
    except ProtocolError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error
    except ReadTimeoutError as error:
        raise requests.Timeout(error) from error


def reason(error: Exception) -> str:
    """An error as a few words."""
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema):
        return "only http and https are fetched, and followed"
    if isinstance(error, requests.TooManyRedirects):
        return f"more than {REDIRECTIONS} redirections"
    if isinstance(error, requests.exceptions.SSLError):
        return "no encrypted connection that can be trusted"
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError) or _not_connected(error):
        return "no connection"
    if isinstance(error, requests.Timeout) and not isinstance(error, TooSlow):
        return f"no answer within {TIMEOUT[1]} seconds"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError) and not isinstance(error, Unreachable):
        return "the transfer broke off"
    return " ".join(str(error).split())[:200]


def _not_connected(error: Exception) -> bool:
    return any(isinstance(getattr(cause, "reason", None), NewConnectionError) for cause in error.args)


def _transfer(url: str, target: Path, remote: Remote, session: requests.Session, show_progress: bool) -> Path:
    """Bring all of ``url`` into the unfinished file beside ``target`` and return that."""
    with TimeLimit(session, url, SECONDS, CHUNK) as limit:
        for _ in range(ATTEMPTS - 1):
            try:
                return _attempt(url, target, remote, session, limit, show_progress)
            except requests.RequestException:
                if limit.passed or not _part(target).exists():  # without a byte the address itself is at fault
                    raise
        return _attempt(url, target, remote, session, limit, show_progress)


def _attempt(url: str, target: Path, remote: Remote, session: requests.Session, limit: TimeLimit, show_progress: bool) -> Path:
    part, version = _part(target), _version_so_far(url, target)
    have = part.stat().st_size if version else 0
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        another_part = answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and (answer.status_code == 416 or another_part):  # nothing is left to send, or what we have is of another file
            _forget(target)
            return _attempt(url, target, remote, session, limit, show_progress)
        check_status(answer, 200, 206)
        if answer.headers.get("Content-Encoding", "identity") != "identity" and target.suffix != ".gz":
            raise Refused("the server sends it compressed, which nobody asked for")
        have = have if answer.status_code == 206 else 0
        if not have:
            _forget(target)  # old bytes must not pass for the new version's
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total is not None and total > remote.max_bytes:
            _forget(target)
            raise Refused(f"it has {total:,} bytes, more than the {remote.max_bytes:,} allowed")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        _state(target).write_text(json.dumps({"url": url, "version": version}))
        with part.open("ab" if have else "wb") as file, tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=target.name, disable=not show_progress
        ) as bar:
            for piece in pieces(answer):
                file.write(piece)
                bar.update(len(piece))
                limit.received(len(piece))
                if file.tell() > remote.max_bytes:
                    _forget(target)
                    raise Refused(f"it has more than the {remote.max_bytes:,} bytes allowed")
        if total is not None and part.stat().st_size != total:
            raise requests.exceptions.ChunkedEncodingError(f"{part.stat().st_size:,} of {total:,} bytes came")
    return part


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _state(target: Path) -> Path:
    return target.with_name(f".{target.name}.part.json")


def _version_so_far(url: str, target: Path) -> str | None:
    """The server's version of what has been transferred from ``url``; None when it can't be gone on with."""
    try:
        state = json.loads(_state(target).read_text())
    except (OSError, ValueError):
        return None
    usable = state.get("url") == url and _part(target).exists() and not str(state.get("version")).startswith("W/")
    return state["version"] if usable else None


def _forget(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _state(target).unlink(missing_ok=True)
