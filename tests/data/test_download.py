"""Downloads from a local server that fails, interrupts transfers, is slow and supports ranges."""
import gzip
import hashlib
import io
import json
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests
import urllib3
from PIL import Image
from web_server import image_bytes

from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import write
from recbole_macrec.data.encoders import RawItem, images
from recbole_macrec.data.fetch import download, hosts, images as fetch_images
from recbole_macrec.data.fetch.download import Remote, fetch
from recbole_macrec.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def quiet(remote, target):
    return fetch(remote, target, show_progress=False)


def test_a_file_is_fetched_once(server, tmp_path):
    server.files["a.gz"] = CONTENT
    target = quiet(Remote((server.url("a.gz"),), SHA256), tmp_path / "raw" / "a.gz")
    assert target.read_bytes() == CONTENT and [p.name for p in target.parent.iterdir()] == ["a.gz"]
    quiet(Remote((server.url("a.gz"),), SHA256), target)
    assert len(server.requested) == 1


def test_an_existing_file_with_another_checksum_is_refused_and_kept(server, tmp_path):
    target = tmp_path / "a.gz"
    target.write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match="the SHA-256 of .*a.gz is .*; copy the whole file"):
        quiet(Remote((server.url("a.gz"),), SHA256), target)
    assert target.read_bytes() == CONTENT[:1000] and not server.requested


def test_busy_servers_are_retried_and_interrupted_transfers_resumed(server, tmp_path):
    server.files["a.gz"], server.failures["a.gz"], server.breaks["a.gz"] = CONTENT, 1, 2
    assert quiet(Remote((server.url("a.gz"),), SHA256), tmp_path / "a.gz").read_bytes() == CONTENT
    assert server.requested == [("a.gz", None), ("a.gz", None), ("a.gz", "bytes=150000-"), ("a.gz", "bytes=225000-")]


def test_a_killed_download_is_resumed(server, tmp_path, monkeypatch):
    server.files["a.gz"] = CONTENT
    monkeypatch.setattr(download, "CHUNK", 50_000)
    update, pieces = download.tqdm.update, []

    def killed(bar, size):
        pieces.append(size)
        if len(pieces) == 3:
            raise KeyboardInterrupt
        return update(bar, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.tqdm, "update", killed)
        quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz")
    assert not (tmp_path / "a.gz").exists()
    assert quiet(Remote((server.url("a.gz"),), SHA256), tmp_path / "a.gz").read_bytes() == CONTENT
    assert server.requested[-1] == ("a.gz", "bytes=150000-")


def test_a_file_that_changed_is_downloaded_from_the_start(server, tmp_path):
    server.files["a.gz"] = b"old" + CONTENT
    server.breaks["a.gz"] = download.ATTEMPTS
    with pytest.raises(UserError, match="interrupted"):
        quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz")
    server.files["a.gz"], server.etag, server.breaks["a.gz"] = CONTENT, '"two"', 0
    assert quiet(Remote((server.url("a.gz"),), SHA256), tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_complete_partial_file_is_not_requested_beyond_its_end(server, tmp_path):
    server.files["a.gz"] = CONTENT
    (tmp_path / ".a.gz.part").write_bytes(CONTENT)
    (tmp_path / ".a.gz.part.json").write_text(f'{{"url": "{server.url("a.gz")}", "version": "\\"one\\""}}')
    assert quiet(Remote((server.url("a.gz"),), SHA256), tmp_path / "a.gz").read_bytes() == CONTENT


def test_the_next_mirror_is_used_when_one_fails(server, tmp_path):
    server.files |= {"wrong.gz": b"something else", "right.gz": CONTENT}
    remote = Remote(tuple(server.url(f"{name}.gz") for name in ("gone", "wrong", "right")), SHA256)
    assert quiet(remote, tmp_path / "a.gz").read_bytes() == CONTENT


def test_failed_downloads_are_errors_with_the_reason(server, tmp_path):
    server.files["big.gz"] = server.files["wrong.gz"] = CONTENT
    unreachable = "http://127.0.0.1:9/a.gz"
    cases = [(Remote((server.url("gone.gz"),)), "404"), (Remote((unreachable,)), "no connection"),
             (Remote((server.url("big.gz"),), max_bytes=1000), "300,000 bytes, more than the 1,000"),
             (Remote((server.url("wrong.gz"),), "0" * 64), "SHA-256")]
    for remote, why in cases:
        with pytest.raises(UserError, match=why) as error:
            quiet(remote, tmp_path / "a.gz")
        assert str(tmp_path / "a.gz") in str(error.value)
    assert not (tmp_path / "a.gz").exists()


def test_an_invalid_url_of_an_image_is_one_failure(server, tmp_path):
    server.files["good.jpg"] = image_bytes()
    first, second = tmp_path / "first.jpg", tmp_path / "second.jpg"
    failed = fetch_images.fetch_images(
        {first: ["http://[cdn/first.jpg"], second: ["http://[cdn/second.jpg", server.url("good.jpg")]}, show_progress=False
    )
    assert second.is_file() and list(failed) == [first] and not failed[first].temporary
    assert "http://[cdn/first.jpg has no valid host or port" in failed[first].reason


def test_images_are_checked_and_failures_reported(server, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 5000)
    monkeypatch.setattr(fetch_images, "MAX_BYTES", 50_000)
    server.files |= {"good.jpg": image_bytes(), "good.png": image_bytes("PNG"), "cut.jpg": image_bytes()[:-400],
                     "page.jpg": b"<html>not found</html>", "large.jpg": image_bytes(size=(100, 80)), "heavy.jpg": CONTENT}
    server.failures["good.jpg"] = 1
    names = ("good.jpg", "good.png", "cut.jpg", "page.jpg", "large.jpg", "heavy.jpg", "gone.jpg")
    urls_of = {tmp_path / name: [server.url(name)] for name in names}
    urls_of |= {tmp_path / "second.jpg": [server.url("gone.jpg"), server.url("good.png")], tmp_path / "none.jpg": []}
    failed = fetch_images.fetch_images(urls_of, connections=3, show_progress=False)
    why = {path.name: failure.reason for path, failure in failed.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.jpg", "good.png", "second.jpg"]
    assert list(why) == ["cut.jpg", "page.jpg", "large.jpg", "heavy.jpg", "gone.jpg", "none.jpg"]
    for name, part in (("cut.jpg", "not a usable image"), ("page.jpg", "not a usable image"), ("large.jpg", "100 x 80 pixels"),
                       ("heavy.jpg", "50,000 bytes"), ("gone.jpg", "404"), ("none.jpg", "no URL")):
        assert part in why[name]
    before = len(server.requested)
    fetch_images.fetch_images({path: urls for path, urls in urls_of.items() if path not in failed}, show_progress=False)
    assert len(server.requested) == before


def test_an_interrupt_starts_no_further_transfers(tmp_path, monkeypatch):
    started = []

    def interrupted_first(path, urls, session):
        started.append(path)
        if len(started) == 1:
            raise KeyboardInterrupt
        threading.Event().wait(0.05)  # lets the main thread notice the interrupt

    monkeypatch.setattr(fetch_images, "_fetch", interrupted_first)
    with pytest.raises(KeyboardInterrupt):
        fetch_images.fetch_images({tmp_path / f"{n}.jpg": [] for n in range(200)}, connections=1, show_progress=False)
    assert len(started) < 200


def test_images_of_a_catalogue(server, tmp_path, capsys):
    shop = tmp_path / "data" / "shop"
    (shop / "images").mkdir(parents=True)
    write(shop / "shop.item", {"item_id:token": ["a", "b/c", "d", "e"], "title:token_seq": list("wxyz"),
                               "image:token": ["images/a.jpg", "images/b%2Fc.jpg", "images/d.png", ""]})
    (shop / "images/d.png").write_bytes(image_bytes("PNG"))
    server.files["a.jpg"] = image_bytes()
    (shop / "image_urls.json").write_text(json.dumps({"a": [server.url("a.jpg")], "b/c": [server.url("b.jpg")]}))
    command = ["images", "shop", f"--data_path={tmp_path / 'data'}"]
    assert main(command) == 0
    assert "2 images exist, 1 could not be downloaded" in capsys.readouterr().out
    assert list(json.loads((shop / "images_failed.json").read_text())) == ["b/c"]
    server.files["b.jpg"] = image_bytes()
    assert main(command) == 0 and (shop / "images/b%2Fc.jpg").is_file() and not (shop / "images_failed.json").exists()
    assert sorted(path for path, _ in server.requested) == ["a.jpg", "b.jpg", "b.jpg"]
    (shop / "image_urls.json").unlink()
    assert main(command) == 1 and "image_urls.json does not exist" in capsys.readouterr().err


def test_images_of_a_missing_dataset(capsys):
    assert main(["images", "shop", "--data_path=typo"]) == 1 and "typo/shop does not exist" in capsys.readouterr().err
    assert not Path("typo").exists()


@pytest.mark.parametrize("leads_to", ["file:///etc/passwd", "ftp://127.0.0.1/a.gz"])
def test_redirections_to_other_schemes_are_refused(leads_to, server, tmp_path):
    server.redirects |= {"away.gz": leads_to, "round.gz": server.url("round.gz"), "there.gz": server.url("a.gz")}
    server.files["a.gz"] = CONTENT
    with pytest.raises(UserError, match="only http and https"):
        quiet(Remote((server.url("away.gz"),)), tmp_path / "a.gz")
    with pytest.raises(UserError, match="more than 5 redirections"):
        quiet(Remote((server.url("round.gz"),)), tmp_path / "a.gz")
    failed = fetch_images.fetch_images({tmp_path / "a.jpg": [server.url("away.gz")]}, show_progress=False)
    assert not failed[tmp_path / "a.jpg"].temporary
    assert quiet(Remote((server.url("there.gz"),), SHA256), tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a.gz", "a.gz", "http://", "http://127.0.0.1:none/a.gz"])
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(UserError, match="could not download a.gz"):
        quiet(Remote((url,)), tmp_path / "a.gz")
    assert not list(tmp_path.iterdir())


def test_gz_files_sent_with_a_content_encoding_are_not_decompressed(server, tmp_path):
    """Web servers often send .gz files with ``Content-Encoding: gzip``, which clients decompress."""
    packed = gzip.compress(CONTENT)  # once: its header has the time
    server.files["a.gz"] = server.files["a.csv"] = packed
    server.headers["Content-Encoding"] = "gzip"
    assert quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz").read_bytes() == packed
    with pytest.raises(UserError, match="compressed"):
        quiet(Remote((server.url("a.csv"),)), tmp_path / "a.csv")


def test_an_unreachable_host_is_tried_once(monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr(hosts, "_connection_failure", lambda *place: tried.append(place) or "no answer")
    urls_of = {tmp_path / f"{i}.jpg": [f"http://shop.example/{i}.jpg"] for i in range(50)}
    failed = fetch_images.fetch_images(urls_of, show_progress=False)
    assert len(failed) == 50 and tried == [("shop.example", 80)]
    assert all(failure.temporary and "no connection to shop.example" in failure.reason for failure in failed.values())


def test_the_proxy_is_checked_instead_of_the_host(monkeypatch, tmp_path):
    tried = []
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setattr(hosts, "_connection_failure", lambda *place: tried.append(place) or "no answer")
    with pytest.raises(UserError, match="no connection to proxy.example"):
        quiet(Remote(("https://shop.example/a.gz",)), tmp_path / "a.gz")
    assert tried == [("proxy.example", 3128)]


def test_image_decompression_bombs_are_refused(server, tmp_path):
    """A PNG of a few bytes whose header gives 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 10) + b"IDAT" + zlib.compress(b"")[:10].ljust(10) + b"\0\0\0\0"
    server.files |= {"bomb.png": bomb, "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"}
    urls_of = {tmp_path / name: [server.url(name)] for name in server.files}
    failed = fetch_images.fetch_images(urls_of, show_progress=False)
    assert "pixels" in failed[tmp_path / "bomb.png"].reason and "not one of JPEG" in failed[tmp_path / "script.jpg"].reason
    (tmp_path / "bomb.png").write_bytes(bomb)  # and where a user's own folder has it
    with pytest.raises(UserError, match="bomb.png of item 'a' is unreadable .*pixels"):
        images.read_rgb(RawItem("a", image=tmp_path / "bomb.png"))
    medium = io.BytesIO()
    Image.new("1", (9000, 9000)).save(medium, "PNG")
    (tmp_path / "medium.png").write_bytes(medium.getvalue())
    with pytest.raises(UserError, match="9000 x 9000 pixels"):
        images.read_rgb(RawItem("a", image=tmp_path / "medium.png"))


def test_image_paths_outside_the_folder_are_refused(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    write(shop / "shop.item", {"item_id:token": ["a"], "image:token": ["../a.jpg"]})
    (shop / "image_urls.json").write_text('{"a": ["http://127.0.0.1:9/a.jpg"]}')
    with pytest.raises(UserError, match="outside .* 1 item \\('a'\\)"):
        fetch_images.fetch_catalogue_images(shop, show_progress=False)


@pytest.mark.parametrize("at_once", [0, 30, 1000], ids=["status", "headers", "content"])
def test_transfers_that_are_too_slow_are_ended(at_once, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS", 1)
    monkeypatch.setattr(fetch_images, "SECONDS", 1)
    server.files |= {"a.gz": CONTENT, "a.jpg": image_bytes()}
    server.drips |= {"a.gz": at_once, "a.jpg": at_once}
    with pytest.raises(UserError, match="too slow: 65,536 bytes did not arrive within 1 seconds"):
        quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz")
    failed = fetch_images.fetch_images({tmp_path / "a.jpg": [server.url("a.jpg")]}, show_progress=False)
    assert (
        "too slow: the whole file did not arrive within 1 seconds" in failed[tmp_path / "a.jpg"].reason
        and failed[tmp_path / "a.jpg"].temporary
    )


def test_a_slow_server_that_sends_enough_is_not_ended(server, tmp_path, monkeypatch):
    """The limit is per chunk: 4 s in total, but less than 3 s per chunk."""
    monkeypatch.setattr(download, "SECONDS", 3)
    monkeypatch.setattr(download, "CHUNK", 4)
    server.files["a.gz"], server.drips["a.gz"] = CONTENT[:100], 100
    assert quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz").read_bytes() == CONTENT[:100]


def test_a_server_that_does_not_respond_is_not_retried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 1))
    monkeypatch.setattr(fetch_images, "TIMEOUT", (1, 1))
    server.files |= {"a.gz": CONTENT} | {f"{i}.jpg": image_bytes() for i in range(20)}
    server.slow |= dict.fromkeys(server.files, 3)
    with pytest.raises(UserError, match="no answer within 1 seconds"):
        quiet(Remote((server.url("a.gz"),)), tmp_path / "a.gz")
    assert server.requested == [("a.gz", None)]
    urls_of = {tmp_path / f"{i}.jpg": [server.url(f"{i}.jpg")] for i in range(20)}
    failed = fetch_images.fetch_images(urls_of, connections=2, show_progress=False)
    reasons = [failure.reason for failure in failed.values()]
    assert len(server.requested) <= 1 + hosts.MAX_FAILURES + 1 and "no answer within 1 seconds" in reasons[0]
    assert reasons[-1].endswith("127.0.0.1 did not answer in time 3 times in a row")


def test_a_broken_tls_record_is_an_interrupted_transfer():
    class Raw:
        def stream(self, *arguments, **options):
            yield b"abc"
            raise urllib3.exceptions.SSLError("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")

    response = requests.Response()
    response.raw = Raw()
    with pytest.raises(requests.RequestException) as error:
        list(download.pieces(response))
    assert download.reason(error.value) == "the transfer was interrupted"


def test_a_redirection_in_another_encoding_is_a_failed_image(tmp_path, monkeypatch):
    def redirect(*arguments, **options):
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "unexpected end of data")

    session = download.new_session()
    monkeypatch.setattr(session, "get", redirect)
    failure = fetch_images._fetch(tmp_path / "a.jpg", ["http://host/a.jpg"], session)
    assert failure is not None and "unexpected end of data" in failure.reason and not failure.temporary
