"""Many small images from the network, each checked before it counts as there."""
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
from recbole_macrec.data.features import listing
from recbole_macrec.data.fetch.download import ATTEMPTS, TIMEOUT, Busy, Refused, check_status, new_session, pieces, reason
from recbole_macrec.data.fetch.hosts import Hosts, TimeLimit
from recbole_macrec.data.importers.raw.catalogue import URLS
from recbole_macrec.data.importers.sources import read_json_object
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import whole_file

REPORT = "images_failed.json"
MAX_BYTES = 20 * 2**20
SECONDS = 120  # for an image, attempts included
NETWORK = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, Busy)


class Failure(NamedTuple):
    """Why an image could not be had, and whether trying another time may help."""

    reason: str
    for_now: bool


def fetch_images(wanted: Mapping[Path, Sequence[str]], connections: int = 16, show_progress: bool = True) -> dict[Path, Failure]:
    """Download images that are not there yet.

    Args:
        wanted: file -> addresses of the image, tried in this order.
        connections: transfers at the same time.

    Returns:
        File -> why it could not be had, for those that could not, in the order of ``wanted``.
    """
    missing = {path: urls for path, urls in wanted.items() if not path.exists()}
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
        for task in as_completed(tasks):
            if why := task.result():
                failed[tasks[task]] = why
                bar.set_postfix(failed=len(failed))
            bar.update()
    return {path: failed[path] for path in missing if path in failed}


def fetch_catalogue_images(folder: Path, connections: int = 16, show_progress: bool = True,
                           form: AtomicFormat = DEFAULT_FORMAT) -> tuple[int, dict[str, Failure]]:
    """Bring the images that an imported catalogue still lacks to where its ``.item`` file says.

    What failed is in ``images_failed.json`` as well; asking again tries those once more.

    Returns:
        How many images are there now, and item -> why its image could not be had, in the order of the catalogue.

    Raises:
        UserError: when the dataset folder lists no images to fetch.
    """
    name, listed = folder.name, folder / URLS
    if not listed.is_file():
        raise UserError(f"{listed} does not exist; it is written by the import of a catalogue whose images have addresses")
    urls = read_json_object(listed)
    items = read_items(folder, name, form)
    places = {item: folder / place for item, place in zip(items["item_id"], items["image"]) if place}
    outside = [item for item, place in places.items() if not place.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise UserError(f"{folder / name}.item names an image outside {folder} for {listing(outside, 'item')}; import the "
                        "dataset again")
    failed = fetch_images({places[item]: urls[item] for item in urls if item in places}, connections, show_progress)
    items_of = {path: item for item, path in places.items()}
    report = {items_of[path]: why for path, why in failed.items()}
    if report:
        with whole_file(folder / REPORT) as fresh:
            fresh.write_text(json.dumps({item: why.reason for item, why in report.items()}, indent=1), encoding="utf-8")
    else:
        (folder / REPORT).unlink(missing_ok=True)
    return len(places) - len(report), report


def check_image(content: bytes) -> None:
    """Raise Refused unless ``content`` is a whole image of a reasonable size."""
    try:
        with open_image(io.BytesIO(content)) as image:
            image.verify()
        with open_image(io.BytesIO(content)) as image:
            image.load()  # verify() does not notice a truncated JPEG
    except BROKEN as error:
        raise Refused(f"it is no usable image ({' '.join(str(error).split())[:100]})") from None


def _fetch(path: Path, urls: Sequence[str], session: requests.Session) -> Failure | None:
    reasons, for_now = [], False
    for url in urls:
        try:
            content = _whole_content(url, session)
            check_image(content)
        except (requests.RequestException, Refused) as error:
            reasons.append(f"{url}: {reason(error)}")
            for_now |= isinstance(error, NETWORK)
            continue
        with whole_file(path) as fresh:
            fresh.write_bytes(content)
        return None
    return Failure("; ".join(reasons) or "no address is known", for_now)


def _whole_content(url: str, session: requests.Session) -> bytes:
    """Transfer the image again when that breaks off; that there is no answer at all the session has tried often enough."""
    with TimeLimit(session, url, SECONDS) as limit:
        for _ in range(ATTEMPTS - 1):
            try:
                return _content(url, session)
            except requests.exceptions.ChunkedEncodingError:
                if limit.passed:
                    raise
        return _content(url, session)


def _content(url: str, session: requests.Session) -> bytes:
    with session.get(url, stream=True, timeout=TIMEOUT) as answer:
        check_status(answer, 200)
        content = bytearray()
        for piece in pieces(answer):
            content += piece
            if len(content) > MAX_BYTES:
                raise Refused(f"it has more than the {MAX_BYTES:,} bytes allowed")
    return bytes(content)
