"""Files from the network: mirrors, retries, resumed transfers, checksums, size limits."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from recbole_macrec.data.checksum import sha256_of
from recbole_macrec.errors import UserError

CHUNK = 2**16  # bytes of a piece; a transfer that breaks off loses at most one
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the answer
ATTEMPTS = 5  # transfers that break off, each going on where the last one stopped


class Remote(NamedTuple):
    """A file on the network."""

    urls: tuple[str, ...]  # mirrors, tried in this order
    sha256: str | None = None
    max_bytes: int = 2**36


class Refused(Exception):
    """What came is not what was asked for, and asking again would not help."""


def new_session() -> requests.Session:
    """A session that tries again, with growing pauses, when a server is busy or fails."""
    retries = Retry(total=ATTEMPTS, connect=1, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504),
                    raise_on_status=False)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges then count the file's own bytes
    return session


def fetch(remote: Remote, target: Path, session: requests.Session | None = None, show_progress: bool = True) -> Path:
    """Download to ``target`` unless it is there; a transfer that was killed goes on where it stopped.

    Raises:
        UserError: when no mirror gave the file, with each one's reason.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    session, reasons = session or new_session(), []
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
            reasons.append(f"{url}: {reason(error)}")
    raise UserError(f"could not download {target.name} ({'; '.join(reasons)}); put the file at {target} yourself, or name a "
                    "mirror that has it")


def reason(error: Exception) -> str:
    """An error as a few words."""
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer broke off"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return " ".join(str(error).split())[:200]


def _transfer(url: str, target: Path, remote: Remote, session: requests.Session, show_progress: bool) -> Path:
    """Bring all of ``url`` into the unfinished file beside ``target`` and return that."""
    for _ in range(ATTEMPTS - 1):
        try:
            return _attempt(url, target, remote, session, show_progress)
        except requests.RequestException:
            if not _part(target).exists():  # without a byte the address itself is at fault
                raise
    return _attempt(url, target, remote, session, show_progress)


def _attempt(url: str, target: Path, remote: Remote, session: requests.Session, show_progress: bool) -> Path:
    part, version = _part(target), _version_so_far(url, target)
    have = part.stat().st_size if version else 0
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing is left to send, or what we have is of another file
            _forget(target)
            return _attempt(url, target, remote, session, show_progress)
        if answer.status_code not in (200, 206):
            raise Refused(f"the server answers {answer.status_code}")
        have = have if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if total is not None and total > remote.max_bytes:
            raise Refused(f"it has {total:,} bytes, more than the {remote.max_bytes:,} allowed")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        _state(target).write_text(json.dumps({"url": url, "version": version}))
        with part.open("ab" if have else "wb") as file, tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=target.name, disable=not show_progress
        ) as bar:
            for piece in answer.iter_content(CHUNK):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > remote.max_bytes:
                    raise Refused(f"it has more than the {remote.max_bytes:,} bytes allowed")
        if total is not None and part.stat().st_size != total:
            raise requests.ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")
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
