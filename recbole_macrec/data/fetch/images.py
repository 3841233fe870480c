"""Download the images of a catalogue, and check each before it is stored."""
from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import requests
from tqdm import tqdm

from recbole_macrec.data.atomic import DEFAULT_FORMAT, AtomicFormat, read_items
from recbole_macrec.data.encoders.images import BROKEN, open_image
from recbole_macrec.data.features import format_items
from recbole_macrec.data.fetch.download import ATTEMPTS, TIMEOUT, Busy, Refused, check_status, new_session, pieces, reason
from recbole_macrec.data.fetch.hosts import Hosts, TimeLimit
from recbole_macrec.data.importers.raw.catalogue import URLS
from recbole_macrec.data.json_files import read_json_object
from recbole_macrec.errors import UserError, one_line
from recbole_macrec.utils.files import atomic_write

REPORT = "images_failed.json"
MAX_BYTES = 20 * 2**20
SECONDS = 120  # seconds for an image, including retries
NETWORK = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, Busy)


class Failure(NamedTuple):
    """The reason why an image could not be downloaded."""

    reason: str
    temporary: bool  # whether a later attempt may succeed


def fetch_images(
    urls_of: Mapping[Path, Sequence[str]], connections: int = 16, show_progress: bool = True
) -> dict[Path, Failure]:
    """Download images that do not exist yet.

    Args:
        urls_of: file -> URLs of the image, tried in this order.
        connections: number of parallel transfers.
        show_progress: whether to show a progress bar.

    Returns:
        File -> reason, for the images that could not be downloaded, in the order of ``urls_of``.
    """
    missing = {path: urls for path, urls in urls_of.items() if not path.exists()}
    for folder in {path.parent for path in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    local, hosts, failed = threading.local(), Hosts(), {}

    def fetch(path: Path, urls: Sequence[str]) -> Failure | None:
        if not hasattr(local, "session"):
            local.session = new_session(hosts)
        return _fetch(path, urls, local.session)

    with ThreadPoolExecutor(connections) as pool, tqdm(
        total=len(missing), unit="image", desc="Images", disable=not show_progress
    ) as bar:
        tasks = {pool.submit(fetch, path, urls): path for path, urls in missing.items()}
        try:
            for task in as_completed(tasks):
                if failure := task.result():
                    failed[tasks[task]] = failure
                    bar.set_postfix(failed=len(failed))
                bar.update()
        finally:  # after Ctrl-C or an error, the pool waits only for the transfers that run
            pool.shutdown(wait=False, cancel_futures=True)
    return {path: failed[path] for path in missing if path in failed}


def fetch_catalogue_images(folder: Path, connections: int = 16, show_progress: bool = True,
                           form: AtomicFormat = DEFAULT_FORMAT) -> tuple[int, dict[str, Failure]]:
    """Download the missing images of an imported catalogue to the paths in its ``.item`` file.

    Failures are also written to ``images_failed.json``; the next call tries them again.

    Returns:
        The number of existing images, and item -> reason for the images that could not be downloaded, in catalogue order.

    Raises:
        UserError: if the dataset folder lists no images to download.
    """
    name, urls_file = folder.name, folder / URLS
    if not urls_file.is_file():
        raise UserError(f"{urls_file} does not exist; it is written by the import of a catalogue whose images have URLs")
    urls = read_json_object(urls_file)
    items = read_items(folder, name, form)
    paths = {item: folder / path for item, path in zip(items["item_id"], items["image"]) if path}
    outside = [item for item, path in paths.items() if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise UserError(f"{folder / name}.item names an image outside {folder} for {format_items(outside, 'item')}; import the "
                        "dataset again")
    failures = fetch_images({paths[item]: urls[item] for item in urls if item in paths}, connections, show_progress)
    item_of = {path: item for item, path in paths.items()}
    failed = {item_of[path]: failure for path, failure in failures.items()}
    if failed:
        with atomic_write(folder / REPORT) as path:
            path.write_text(json.dumps({item: failure.reason for item, failure in failed.items()}, indent=1), encoding="utf-8")
    else:
        (folder / REPORT).unlink(missing_ok=True)
    return len(paths) - len(failed), failed


def check_image(content: bytes) -> None:
    """Raise Refused unless ``content`` is a complete image of an allowed size."""
    try:
        with open_image(io.BytesIO(content)) as image:
            image.verify()
        with open_image(io.BytesIO(content)) as image:
            image.load()  # verify() does not notice a truncated JPEG
    except BROKEN as error:
        raise Refused(f"it is not a usable image ({one_line(error, 100)})") from None


def _fetch(path: Path, urls: Sequence[str], session: requests.Session) -> Failure | None:
    reasons, temporary = [], False
    for url in urls:
        try:
            content = _download_with_retries(url, session)
            check_image(content)
        except (requests.RequestException, Refused, UnicodeError) as error:  # a redirection to a URL in another encoding
            reasons.append(f"{url}: {reason(error)}")
            temporary |= isinstance(error, NETWORK)
            continue
        with atomic_write(path) as temporary_path:
            temporary_path.write_bytes(content)
        return None
    return Failure("; ".join(reasons) or "it has no URL", temporary)


def _download_with_retries(url: str, session: requests.Session) -> bytes:
    """Download an image, with retries of interrupted transfers; failed connections are retried by the session itself."""
    with TimeLimit(session, url, SECONDS) as limit:
        for _ in range(ATTEMPTS - 1):
            try:
                return _download(url, session)
            except requests.exceptions.ChunkedEncodingError:
                if limit.passed:
                    raise
        return _download(url, session)


def _download(url: str, session: requests.Session) -> bytes:
    with session.get(url, stream=True, timeout=TIMEOUT) as response:
        check_status(response, 200)
        content = bytearray()
        for piece in pieces(response):
            content += piece
            if len(content) > MAX_BYTES:
                raise Refused(f"it has more than the {MAX_BYTES:,} bytes allowed")
    return bytes(content)
