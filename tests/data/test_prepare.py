"""From raw files to a trained model by one command: downloads, existing files, and resuming after a kill."""
import gzip
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import histories_of
from pretrained_models import make
from process_pool import free_port
from raw_shop import CATEGORY, brute_force, read_2018, write_2018, write_2023
from recbole.config import Config
from recbole.quick_start import run, run_recbole
from web_server import image_bytes

from recbole_macrec import UserError
from recbole_macrec.benchmark.compare.run_command import main as run_models
from recbole_macrec.benchmark.compare.runs import open_comparison
from recbole_macrec.commands.data import main
from recbole_macrec.data.atomic import read_items
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.data.fetch import download, hosts, images as fetch_images
from recbole_macrec.data.fetch.prepare import fetch_dataset
from recbole_macrec.data.fetch.source_block import MIRRORS, SourceBlock

NAME, FOLDER, RAW = "shop", Path("out/shop"), Path("out/shop.raw")
FILES = (f"{CATEGORY}.csv", f"meta_{CATEGORY}.json.gz")
TINY = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "num_beams": 10,
        "epochs": 1, "quantizer": "rq_kmeans", "codebook_levels": 2, "codebook_size": 6, "show_progress": False,
        "state": "ERROR", "precision": "fp32"}


@pytest.fixture
def web_shop(server, tmp_path):
    """A server with a raw catalogue and its images, some of which are missing, truncated or not images."""
    folder = write_2018(tmp_path / "origin", images_at=server.url("").rstrip("/"))
    for name in FILES:
        server.files[name] = (folder / name).read_bytes()
    for token, urls in image_urls(folder).items():
        number = int(token[1:])
        for url in urls:
            content = image_bytes(size=(20, 15), seed=number)
            spoiled = {2: None, 7: content[:-200], 13: b"<html>no image</html>"}.get(number % 17, content)
            if spoiled is not None:
                server.files[url.rpartition("/")[2]] = spoiled
    return folder


def image_urls(folder) -> dict[str, list[str]]:
    """Return {item: URLs} from the first metadata entry of each item that has any, read without code of the package."""
    found = {}
    for line in gzip.open(folder / FILES[1], "rt"):
        try:
            fields = eval(line, {"__builtins__": {}}, {"null": None})  # the test's own file
            found[fields["asin"]] = found.get(fields["asin"]) or [url for url in fields.get("imageURLHighRes") or [] if url]
        except Exception:  # whatever is wrong with a line
            pass
    return found


def have_image(server, folder) -> set[str]:
    """Return the items with a complete image on the server."""
    whole = {path for path, content in server.files.items() if content[:2] == b"\xff\xd8" and content[-2:] == b"\xff\xd9"}
    return {item for item, urls in image_urls(folder).items() if any(url.rpartition("/")[2] in whole for url in urls)}


def source(server, **more) -> dict:
    return {"category": CATEGORY, "files": {name: server.url(name) for name in FILES}, **more}


def write_config(server, **more) -> str:
    """Write a property file and return its name."""
    settings = {
        "source": source(server),
        "encoders": {"text": "tfidf", "image": "pixels"},
        "modalities": ["text", "image"],
        "missing_texts": "mean",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        **more,
    }
    Path("shop.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return "--config_files=shop.yaml"


def prepared(*words) -> int:
    return main(["prepare", NAME, "--data_path=out", "--config_files=shop.yaml", *words])


def contents(folder=Path("out"), times=False) -> dict:
    """Return the contents of ``folder``, without lock files and caches of file times."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns if times else 0)
            for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock" and "seen" not in path.name}


def histories() -> dict[str, list[str]]:
    return histories_of(FOLDER / f"{NAME}.inter")


def test_from_raw_files_to_a_trained_model(server, web_shop, tmp_path, capsys):
    server.failures |= {FILES[1]: 2, "B0003-0.jpg": 1}
    server.breaks |= {FILES[0]: 1, "B0004-0.jpg": 1}
    server.slow |= {FILES[0]: 0.3, "B0001-0.jpg": 0.3}
    bert = str(make("bert", tmp_path))
    config = write_config(server, **TINY, encoders={"text": {"model": bert}, "image": "pixels"})
    command = ["--model=SASRec,MACRec", f"--dataset={NAME}", "--data_path=out", config, "--train_neg_sample_args=None"]
    assert run_models([*command, "--output=first"]) == 0
    assert all("hit@10" in run.result["test_result"] for run in open_comparison("first").runs)

    reviews, described, pictured = read_2018(web_shop)
    steps, _ = brute_force(reviews, described, pictured, core=5)
    without, expected = brute_force(reviews, described, pictured & have_image(server, web_shop), core=5)
    written = json.loads((FOLDER / "manifest.json").read_text())
    counted = [(step["users"], step["items"], step["interactions"]) for step in written["steps"]]
    assert counted[: len(steps)] == steps and counted[-1] == without[-1] != steps[-1]
    assert tuple(written["counts"].values()) == without[-1] and histories() == expected
    items = read_items(FOLDER, NAME)
    assert set(items["item_id"]) == {item for history in expected.values() for item in history}
    assert {path.name for path in (FOLDER / "images").iterdir()} == {Path(place).name for place in items["image"]}
    failed = json.loads((FOLDER / "images_failed.json").read_text())
    assert written["images"] == {"missing_images": "drop", "there": steps[-1][1] - len(failed), "missing": len(failed)}
    assert {"404" in why or "not a usable image" in why for why in failed.values()} == {True}
    for modality in ("text", "image"):
        assert FeatureTable.load(FOLDER, modality).item_tokens == tuple(sorted(items["item_id"]))

    before, n_requests = contents(times=True), len(server.requested)
    capsys.readouterr()
    assert run_models([*command, "--output=second"]) == 0 and "note" not in capsys.readouterr().err
    assert contents(times=True) == before and len(server.requested) == n_requests


def test_text_only_downloads_no_images(server, web_shop):
    write_config(server)
    assert prepared("--modalities=[text]") == 0
    assert sorted({path for path, _ in server.requested}) == sorted(FILES)
    assert [path.name for path in (FOLDER / "features").glob("*.npy")] == ["text.npy"]
    assert histories() == brute_force(*read_2018(web_shop), core=5)[1]
    assert prepared() == 0  # requesting images later gives the same result
    found = contents()
    server.requested.clear()
    os.rename("out", "first")
    assert prepared() == 0 and contents() == found


def test_an_unknown_encoder_is_refused_before_the_download(server, web_shop, capsys):
    write_config(server, encoders={"text": "tfidf", "image": "pixel"})
    assert prepared() == 1
    assert "Did you mean 'pixels'" in capsys.readouterr().err and not RAW.exists()


def test_a_modality_may_have_no_encoder(server, web_shop):
    write_config(server, encoders={"text": "tfidf", "image": None})
    assert prepared("--modalities=[text]") == 0
    assert [path.name for path in (FOLDER / "features").glob("*.npy")] == ["text.npy"]


def test_models_of_recbole_need_only_interactions(server, web_shop):
    write_config(server)
    config = {"data_path": "out", "epochs": 1, "show_progress": False, "state": "ERROR"}
    result = run_recbole(model="SASRec", dataset=NAME, config_file_list=["shop.yaml"], config_dict=config)
    assert result["test_result"] and sorted({path for path, _ in server.requested}) == sorted(FILES)
    assert not (FOLDER / "features").exists()


def prepare_and_exit():
    sys.exit(prepared())


def test_only_one_of_several_processes_prepares(server, web_shop, process_pool):
    write_config(server)
    config = {"data_path": "out", "epochs": 1, "show_progress": False, "state": "ERROR", "train_neg_sample_args": None}
    run("SASRec", NAME, config_file_list=["shop.yaml"], config_dict=config, nproc=2, port=str(free_port()))
    assert sorted(path for path, _ in server.requested) == sorted(FILES)
    assert process_pool.exit_codes(*3 * [(prepare_and_exit,)]) == [0, 0, 0]
    good = [path for path, _ in server.requested if path in server.files and path not in FILES]
    assert len(good) == len(set(good))  # each image was downloaded once


def test_missing_images_mean_keeps_items_without_an_image(server, web_shop, capsys):
    write_config(server, missing_images="mean")
    assert prepared() == 0
    assert histories() == brute_force(*read_2018(web_shop), core=5)[1]
    table, gone = FeatureTable.load(FOLDER, "image"), set(json.loads((FOLDER / "images_failed.json").read_text()))
    rows = dict(zip(table.item_tokens, table.matrix))
    mean = np.mean([row for item, row in rows.items() if item not in gone], axis=0)
    assert len(gone) > 2 and all(np.allclose(rows[item], mean, atol=1e-6) for item in gone)
    assert json.loads((FOLDER / "features/image.encoded.json").read_text())["mean_features"] == len(gone)
    assert prepared("--missing_images=drop") == 0  # possible without starting again
    everything = contents()
    os.rename("out", "first")
    write_config(server)
    assert prepared() == 0
    assert contents() == everything
    assert prepared("--missing_images=mean") == 1 and "remove out/shop" in capsys.readouterr().err  # not possible


# -- killed --------------------------------------------------------------------------------------------------------------


class Watch:
    """Count the steps that change files, and received chunks; kill the process at step ``deadly``."""

    def __init__(self, deadly: int = 0) -> None:
        self.steps, self.deadly = [], deadly

    def step(self, what: str) -> None:
        self.steps.append(what)
        if len(self.steps) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Start to count the steps of this process."""
        for function in ("replace", "rename"):
            setattr(os, function, self._watched(getattr(os, function), lambda a, b: Path(b).name))
        np.save = self._watched(np.save, lambda file, *_: Path(file.name).name)
        download.pieces = fetch_images.pieces = self._pieces

    def _watched(self, real, name):
        def watched(*args, **kwargs):
            self.step(f"before {real.__name__} {name(*args)}")
            real(*args, **kwargs)
            self.step(f"after {real.__name__} {name(*args)}")
        return watched

    def _pieces(self, answer):
        while piece := answer.raw.read(3000):
            yield piece
            self.step(f"piece of {answer.url.rpartition('/')[2]}")


def prepare_watched(deadly: int = 0) -> None:
    """Prepare and write the steps to the file ``steps``, or be killed at step ``deadly``."""
    watch = Watch(deadly)
    watch.install()
    code = prepared()
    Path("steps").write_text("\n".join(watch.steps))
    sys.exit(code)


def moments(steps: list[str]) -> list[int]:
    """Return the numbers, from 1, of the first step of each kind.

    Between two files that are put in place, only the last step is returned: it includes the effects of the earlier ones.
    """
    kinds = {}
    for number, (step, following) in enumerate(zip(steps, [*steps[1:], ""]), 1):
        if step.startswith("after") and following.startswith("before"):
            continue
        words = step.replace("-", " ").split()
        kind = " ".join(words[:2]) + (" image" if step.endswith(".jpg") else words[-1])
        kinds.setdefault(kind, []).append(number)
    return sorted(numbers[0] for numbers in kinds.values())


def test_run_after_a_kill_at_any_step_gives_the_same_files(server, web_shop, process_pool):
    write_config(server)
    assert process_pool.exit_codes((prepare_watched,)) == [0]
    expected, steps = contents(), Path("steps").read_text().splitlines()
    chosen = moments(steps)
    assert {f"after replace {FILES[0]}", "after rename shop", "before replace manifest.json", "before rename .shop.old",
            "before replace text.npy", "after replace image.encoded.json"} <= {steps[n - 1] for n in chosen}
    for number in chosen:
        os.rename("out", f"out-{number}")
        assert process_pool.exit_codes((prepare_watched, number)) == [-signal.SIGKILL], steps[number - 1]
        assert prepared() == 0
        found = contents()
        assert list(found) == list(expected), steps[number - 1]
        assert found == expected, steps[number - 1]


# -- missing files ---------------------------------------------------------------------------------------------------------


def failure(capsys, *words) -> str:
    """Return the error line of a preparation that must fail."""
    capsys.readouterr()
    assert prepared(*words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_dataset_in_the_package_needs_no_preparation(capsys):
    assert main(["prepare", "ml-100k"]) == 1
    assert "is part of RecBole's package and needs no preparation" in capsys.readouterr().err
    assert main(["encode", "ml-100k", "--modality=text", "--encoder=tfidf", "--text_fields=movie_title"]) == 0
    assert "dataset/ml-100k/features/text.npy: 1,682 items" in capsys.readouterr().out


def test_without_network_the_error_names_missing_files(tmp_path, monkeypatch, capsys):
    ended = threading.Event()

    def hang(*args, **kwargs):
        ended.wait(60)
        raise OSError("looking up the name took minutes")

    monkeypatch.setattr(hosts, "HOST_TIMEOUT", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", hang)
    assert run_models(["--model=SASRec,MACRec", "--dataset=Arts", "--data_path=out"]) == 1
    error = capsys.readouterr().err
    raw = Path("out/Arts.raw")
    for part in (
        f"{raw}/Arts_Crafts_and_Sewing.csv",
        f"{raw}/meta_Arts_Crafts_and_Sewing.json.gz",
        "https://",
        "no answer in 0.2",
        "out/Arts/images",
        "tfidf",
        "Arts.inter.json",
        "Arts.emb-llama-td.npy",
        "recbole_macrec.data import SRC --dataset=Arts",
        "--dataset=arts-toy",
        "--dataset=ml-100k",
    ):
        assert part in error
    assert error.count("\n") == 1 and not Path("out/Arts").exists()
    write_2018(tmp_path / "out/Arts.raw", "Arts_Crafts_and_Sewing")  # the user adds the files
    assert main(["prepare", "Arts", "--data_path=out", "--model=SASRec"]) == 0
    assert Path("out/Arts/Arts.inter").is_file()
    ended.set()


def test_run_stops_while_the_image_host_fails(server, web_shop, monkeypatch, capsys):
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    write_config(server)
    gone = [path for path in server.files if path.startswith(("B0003", "B0008"))]
    server.failures |= dict.fromkeys(gone, 1000)
    error = failure(capsys)
    assert "could not be downloaded for now" in error and "503" in error and "unreachable_images: missing" in error
    counts = json.loads((FOLDER / "manifest.json").read_text())["counts"]
    server.failures.clear()
    server.requested.clear()
    assert prepared() == 0
    assert set(gone) <= {path for path, _ in server.requested} and "B0001-0.jpg" not in {path for path, _ in server.requested}
    assert histories() == brute_force(*read_2018(web_shop)[:2], have_image(server, web_shop), core=5)[1]
    assert json.loads((FOLDER / "manifest.json").read_text())["counts"] != counts

    os.rename("out", "first")
    server.failures |= dict.fromkeys(gone, 1000)
    write_config(server, source=source(server, unreachable_images="missing"))
    assert prepared() == 0
    assert not {"B0003", "B0008"} & set(read_items(FOLDER, NAME)["item_id"])


def test_a_dataset_imported_with_other_options_is_an_error(server, web_shop, capsys):
    write_config(server)
    assert prepared("--model=SASRec") == 0
    write_config(server, source=source(server, core=3))
    error = failure(capsys, "--model=SASRec")
    assert "imported with core = 5, but its source has 3: correct its source, or rename out/shop" in error
    write_config(server)
    with (RAW / FILES[0]).open("a") as file:
        file.write("B0001,U1,5.0,1400000000\n")
    assert f"has {(RAW / FILES[0]).stat().st_size:,}" in failure(capsys, "--model=SASRec")
    (RAW / FILES[0]).unlink()  # raw files are not needed any more
    assert prepared("--model=SASRec") == 0


def test_local_sources(tmp_path, capsys):
    write_2023(tmp_path / "of_2023")
    Path("shop.yaml").write_text("source: {path: of_2023, core: 3, require_image: False}\nmodalities: [text]\n"
                                 "missing_texts: mean\nencoders: {text: tfidf}\n")
    assert prepared() == 0
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert manifest["kind"] == "amazon2023" and manifest["options"] == {"core": 3, "require_image": False}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/interactions.csv").write_text("user,item\n" + "".join(f"u{i % 9},i{i % 7}\n" for i in range(63)))
    (tmp_path / "folder/items.csv").write_text("item,title,image\n" + "".join(f"i{i},Thing {i},{i}.png\n" for i in range(6)) +
                                               "i6,Thing 6,\n")
    for i in range(6):
        (tmp_path / f"folder/{i}.png").write_bytes(image_bytes("PNG", seed=i))
    Path("shop.yaml").write_text("source: {path: folder}\nmodalities: [text, image]\nencoders: {text: tfidf, image: pixels}\n")
    os.rename("out", "first")
    assert prepared() == 0
    assert read_items(FOLDER, NAME)["item_id"].tolist() == [f"i{i}" for i in range(6)]  # i6 has no image
    assert FeatureTable.load(FOLDER, "image").item_tokens == tuple(f"i{i}" for i in range(6))
    os.rename("out", "of_ids")
    assert prepared("--model=VBPR") == 0  # a model that reads features without semantic IDs
    assert all(len(FeatureTable.load(FOLDER, modality).matrix) == 6 for modality in ("text", "image"))
    Path("shop.yaml").write_text("source: {path: elsewhere}\n")
    os.rename("out", "second")
    assert "elsewhere, which does not exist" in failure(capsys)


def test_mirrors_of_the_environment_come_first(server, web_shop, monkeypatch):
    for name in FILES:
        server.files[f"mirror/{name}"] = server.files.pop(name)
    write_config(server)
    monkeypatch.setenv(MIRRORS, f"{server.url('none')} {server.url('mirror')}/")
    assert prepared("--model=SASRec") == 0
    assert [path for path, _ in server.requested] == [f"{folder}/{name}" for name in FILES for folder in ("none", "mirror")]


BAD_SOURCES = {
    "no mapping": ("Arts", "source is 'Arts'"),
    "unknown key": ({"fles": {}}, "Did you mean 'files'?"),
    "nothing": ({"core": 5}, "neither path"),
    "text as core": ({"path": "x", "core": "five"}, "core of source is 'five'"),
    "path out of the folder": (
        {"files": {"../a.csv": "http://a.example/a"}},
        "'../a.csv'; expected a file name without folders",
    ),
    "hidden file": ({"files": {".a.csv": "http://a.example/a"}}, "expected a file name without folders"),
    "local address": ({"files": {"a.csv": "file:///etc/passwd"}}, "file:///etc/passwd"),
    "ftp": ({"files": {"a.csv": ["ftp://a.example/a.csv"]}}, "expected http:// or https://"),
    "mirror": ({"files": {"a.csv": []}, "mirrors": ["gopher://a.example"]}, "gopher://a.example/a.csv"),
    "checksum": ({"files": {"a.csv": {"urls": [], "sha256": "12"}}}, "64 hexadecimal digits"),
    "limit": ({"files": {"a.csv": {"urls": [], "max_bytes": "big"}}}, "max_bytes of a.csv"),
    "key of a file": ({"files": {"a.csv": {"url": "http://a.example"}}}, "Did you mean 'urls'?"),
    "unreachable": ({"path": "x", "unreachable_images": "skip"}, "expected stop or missing"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_invalid_sources(case, tmp_path):
    block, expected = BAD_SOURCES[case]
    with pytest.raises(UserError) as error:
        fetch_dataset(tmp_path / "shop", block, lambda: True)
    assert expected in str(error.value) and not list(tmp_path.iterdir())


def test_invalid_value_of_missing_images():
    with pytest.raises(UserError, match="missing_images is 'keep'; expected drop, mean or None"):
        Config("TIGER", "shop", config_dict={"missing_images": "keep"})


@pytest.mark.parametrize("name", ["Arts", "Games", "Instruments"])
def test_files_of_known_catalogues(name, tmp_path):
    from recbole_macrec.config.property_files import property_file, read_yaml

    block = SourceBlock.read(read_yaml(property_file("dataset", f"{name}.yaml"))["source"], tmp_path / name)
    assert list(block.files) == [f"{block.category}.csv", f"meta_{block.category}.json.gz"] == block.missing()
    assert all(len(remote.urls) > 1 for remote in block.files.values())
