"""Many small images from the network, each checked before it counts as there."""
from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from PIL import Image
from tqdm import tqdm

from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.download import CHUNK, TIMEOUT, Refused, new_session, reason
from recbole_macrec.data.raw.catalogue import URLS
from recbole_macrec.data.replace import whole_file
from recbole_macrec.data.sources import read_json_object
from recbole_macrec.errors import UserError

REPORT = "images_failed.json"
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 64 * 10**6


def fetch_images(wanted: Mapping[Path, Sequence[str]], connections: int = 16, show_progress: bool = True) -> dict[Path, str]:
    """Download images that are not there yet.

    Args:
        wanted: file -> addresses of the image, tried in this order.
        connections: transfers at the same time.

    Returns:
        File -> why it could not be had, for those that could not.
    """
    missing = {path: urls for path, urls in wanted.items() if not path.exists()}
    for folder in {path.parent for path in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    local, failed = threading.local(), {}

    def fetch(path: Path, urls: Sequence[str]) -> str | None:
        if not hasattr(local, "session"):
            local.session = new_session()
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


def fetch_catalogue_images(folder: Path, connections: int = 16, show_progress: bool = True) -> tuple[int, dict[str, str]]:
    """Bring the images that an imported catalogue still lacks to where its ``.item`` file says.

    What failed is in ``images_failed.json`` as well; asking again tries those once more.

    Returns:
        How many images are there now, and item -> why its image could not be had.

    Raises:
        UserError: when the dataset folder lists no images to fetch.
    """
    name, listed = folder.name, folder / URLS
    if not listed.is_file():
        raise UserError(f"{listed} does not exist; it is written by the import of a catalogue whose images have addresses")
    urls = read_json_object(listed)
    items = read_items(folder, name)
    places = {item: folder / place for item, place in zip(items["item_id"], items["image"]) if place}
    failed = fetch_images({places[item]: urls[item] for item in urls if item in places}, connections, show_progress)
    items_of = {path: item for item, path in places.items()}
    report = {items_of[path]: why for path, why in failed.items()}
    if report:
        (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    else:
        (folder / REPORT).unlink(missing_ok=True)
    return len(places) - len(report), report


def check_image(content: bytes) -> None:
    """Raise Refused unless ``content`` is a whole image of a reasonable size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Refused(f"it has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
                image.verify()
            with Image.open(io.BytesIO(content)) as image:
                image.load()  # verify() does not notice a truncated JPEG
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"it is no usable image ({' '.join(str(error).split())[:100]})") from None


def _fetch(path: Path, urls: Sequence[str], session: requests.Session) -> str | None:
    reasons = []
    for url in urls:
        try:
            content = _content(url, session)
            check_image(content)
        except (requests.RequestException, Refused) as error:
            reasons.append(f"{url}: {reason(error)}")
            continue
        with whole_file(path) as fresh:
            fresh.write_bytes(content)
        return None
    return "; ".join(reasons) or "no address is known"


def _content(url: str, session: requests.Session) -> bytes:
    with session.get(url, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code != 200:
            raise Refused(f"the server answers {answer.status_code}")
        content = bytearray()
        for piece in answer.iter_content(CHUNK):
            content += piece
            if len(content) > MAX_BYTES:
                raise Refused(f"it has more than the {MAX_BYTES:,} bytes allowed")
    return bytes(content)
