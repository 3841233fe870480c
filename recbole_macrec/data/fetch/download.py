"""Download files: mirrors, retries, resumed transfers, checksums, size limits."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests
from tqdm import tqdm
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError, SSLError
from urllib3.util import Retry

from recbole_macrec.data.fetch.hosts import CheckedAdapter, Hosts, TimeLimit, TooSlow, Unreachable
from recbole_macrec.errors import UserError, one_line
from recbole_macrec.utils.files import report_full_disk, sha256_of

CHUNK = 2**16  # bytes per read; an interrupted transfer loses at most one chunk
TIMEOUT = (10, 30)  # seconds to connect, and between two packets of the response
SECONDS = 60  # seconds for each CHUNK of a file, including retries and the wait for the response
ATTEMPTS = 5  # transfers of a file; each resumes where the last one was interrupted
REDIRECTIONS = 5
BUSY = (408, 429, 500, 502, 503, 504)


class Remote(NamedTuple):
    """A file on the network."""

    urls: tuple[str, ...]  # mirrors, tried in this order
    sha256: str | None = None
    max_bytes: int = 2**36


class Refused(Exception):
    """The response is unusable, and a retry would not help."""


class Busy(Refused):
    """The server rejects the request, but may accept it later."""


class DownloadError(UserError):
    """A file could not be downloaded from any mirror; ``reasons`` is URL -> reason."""

    def __init__(self, message: str, reasons: dict[str, str]) -> None:
        super().__init__(message)
        self.reasons = reasons


def new_session(hosts: Hosts | None = None) -> requests.Session:
    """Return a session, for http and https only, that retries with growing pauses if a server is busy or fails.

    Args:
        hosts: shared by several sessions, so that only one of them waits for a host that does not respond.
    """
    # The server's Retry-After is ignored: it could be hours.
    retries = _Retry(total=ATTEMPTS, connect=1, read=2, backoff_factor=0.3, status_forcelist=BUSY, raise_on_status=False,
                    respect_retry_after_header=False)
    session = requests.Session()
    session.adapters.clear()
    session.max_redirects = REDIRECTIONS
    for scheme in ("http://", "https://"):
        session.mount(scheme, CheckedAdapter(hosts or Hosts(), max_retries=retries))
    session.headers["Accept-Encoding"] = "identity"  # so that sizes and ranges refer to bytes of the file
    return session


class _Retry(Retry):
    """Retry, but not after a read timeout: the wait for the server would be repeated."""

    def increment(self, method=None, url=None, response=None, error=None, _pool=None, _stacktrace=None):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def check_status(response: requests.Response, *expected: int) -> None:
    """Raise Refused, or Busy if a later retry may help, unless the status is in ``expected``."""
    if response.status_code not in expected:
        raise (Busy if response.status_code in BUSY else Refused)(f"the server answers {response.status_code}")


def fetch(remote: Remote, target: Path, session: requests.Session | None = None, show_progress: bool = True) -> Path:
    """Download to ``target`` unless it exists; an interrupted transfer is resumed.

    Raises:
        DownloadError: if the file could not be downloaded from any mirror.
        UserError: if an existing file has another checksum.
    """
    if target.exists():
        if remote.sha256 and (found := sha256_of(target)) != remote.sha256:
            raise UserError(f"the SHA-256 of {target} is {found[:12]}..., but its source expects {remote.sha256[:12]}...; copy "
                            "the whole file, delete it to download it again, or correct sha256 in the source")
        _remove_part(target)  # left if a run was killed right after renaming the part
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with report_full_disk(target):
        return _fetch(remote, target, session or new_session(), show_progress)


def _fetch(remote: Remote, target: Path, session: requests.Session, show_progress: bool) -> Path:
    reasons = {}
    for url in remote.urls:
        try:
            part = _transfer(url, target, remote, session, show_progress)
            if remote.sha256 and (found := sha256_of(part)) != remote.sha256:
                _remove_part(target)
                raise Refused(f"its SHA-256 is {found[:12]}..., expected {remote.sha256[:12]}...")
            os.replace(part, target)
            _remove_part(target)
            return target
        except (requests.RequestException, Refused, UnicodeError) as error:  # a redirection to a URL in another encoding
            reasons[url] = reason(error)
    why = "; ".join(f"{url}: {text}" for url, text in reasons.items()) or "it has no URL"
    raise DownloadError(f"could not download {target.name} ({why}); put the file at {target}, or add a mirror that "
                        "has it", reasons)


def pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the content in chunks, without decompression: some servers send .gz files with a Content-Encoding."""
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (ProtocolError, SSLError) as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error
    except ReadTimeoutError as error:
        raise requests.Timeout(error) from error


def reason(error: Exception) -> str:
    """Return a short description of ``error``."""
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema):
        return "only http and https are supported"
    if isinstance(error, requests.TooManyRedirects):
        return f"more than {REDIRECTIONS} redirections"
    if isinstance(error, requests.exceptions.SSLError):
        return "no trusted TLS connection"
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError) or _not_connected(error):
        return "no connection"
    if isinstance(error, requests.Timeout) and not isinstance(error, TooSlow):
        return f"no answer within {TIMEOUT[1]} seconds"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError) and not isinstance(
        error, Unreachable
    ):
        return "the transfer was interrupted"
    return one_line(error, 200)


def _not_connected(error: Exception) -> bool:
    return any(isinstance(getattr(cause, "reason", None), NewConnectionError) for cause in error.args)


def _transfer(url: str, target: Path, remote: Remote, session: requests.Session, show_progress: bool) -> Path:
    """Download ``url`` to a partial file beside ``target``, with retries, and return its path."""
    with TimeLimit(session, url, SECONDS, CHUNK) as limit:
        for _ in range(ATTEMPTS - 1):
            try:
                return _attempt(url, target, remote, session, limit, show_progress)
            except requests.RequestException:
                if limit.passed or not _part_file(target).exists():  # no byte was received: retries do not help
                    raise
        return _attempt(url, target, remote, session, limit, show_progress)


def _attempt(url: str, target: Path, remote: Remote, session: requests.Session, limit: TimeLimit, show_progress: bool) -> Path:
    part, version = _part_file(target), _partial_version(url, target)
    offset = part.stat().st_size if version else 0
    headers = {"Range": f"bytes={offset}-", "If-Range": version} if version and offset else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        wrong_range = response.status_code == 206 and not content_range.startswith(f"bytes {offset}-")
        if offset and (response.status_code == 416 or wrong_range):  # the partial file is complete, or of another file
            _remove_part(target)
            return _attempt(url, target, remote, session, limit, show_progress)
        check_status(response, 200, 206)
        if response.headers.get("Content-Encoding", "identity") != "identity" and target.suffix != ".gz":
            raise Refused("the server sends it compressed, although identity was requested")
        offset = offset if response.status_code == 206 else 0
        if not offset:
            _remove_part(target)  # bytes of an old version must not be resumed as the new one
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else None
        if total is not None and total > remote.max_bytes:
            _remove_part(target)
            raise Refused(f"it has {total:,} bytes, more than the {remote.max_bytes:,} allowed")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        _state_file(target).write_text(json.dumps({"url": url, "version": version}))
        with part.open("ab" if offset else "wb") as file, tqdm(
            total=total, initial=offset, unit="B", unit_scale=True, desc=target.name, disable=not show_progress
        ) as bar:
            for piece in pieces(response):
                file.write(piece)
                bar.update(len(piece))
                limit.received(len(piece))
                if file.tell() > remote.max_bytes:
                    _remove_part(target)
                    raise Refused(f"it has more than the {remote.max_bytes:,} bytes allowed")
        if total is not None and part.stat().st_size != total:
            raise requests.exceptions.ChunkedEncodingError(f"{part.stat().st_size:,} of {total:,} bytes received")
    return part


def _part_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _state_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.part.json")


def _partial_version(url: str, target: Path) -> str | None:
    """Return the server's version of the partial file from ``url``, or None if the transfer cannot be resumed."""
    try:
        state = json.loads(_state_file(target).read_text())
    except (OSError, ValueError):
        return None
    usable = state.get("url") == url and _part_file(target).exists() and not str(state.get("version")).startswith("W/")
    return state["version"] if usable else None


def _remove_part(target: Path) -> None:
    _part_file(target).unlink(missing_ok=True)
    _state_file(target).unlink(missing_ok=True)
