"""Models saved as folders: the same ranking without the dataset, and errors for changed files."""
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from recbole.quick_start import load_data_and_model
from small_models import ITEMS, data_path, prepare  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender, UserError
from recbole_macrec.model import MODELS
from recbole_macrec.recommend.__main__ import main

HISTORIES = {"ann": ["i4", "i5", "i6"], "bob": ["i9"]}
CONTENT = {"manifest.json", "items.json", "codes.safetensors", "model.safetensors", "quantizer.safetensors"}


@pytest.fixture
def folder(request, tmp_path, tmp_path_factory):
    """A new pretrained folder."""
    master = tmp_path_factory.getbasetemp() / "macrec"
    if not master.exists():
        _, model, _, _ = prepare("MACRec", request.getfixturevalue("data_path"), text_fields=["title"])
        model.save_pretrained(master)
    return shutil.copytree(master, tmp_path / "macrec")


def seal(folder, **changes):
    """Change the manifest and update all checksums, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256_of_the_rest"]
    for name in manifest["sha256"]:
        if (folder / name).is_file():
            manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest |= changes
    body = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "sha256_of_the_rest": hashlib.sha256(body).hexdigest()}, ensure_ascii=False))


@pytest.mark.parametrize("name", [model.__name__ for model in MODELS if not model.requires_users])
@pytest.mark.parametrize("decode", ["beam", "exact"])
def test_same_ranking_without_the_dataset(name, decode, data_path, tmp_path):
    _, model, _, _ = prepare(name, data_path, decode=decode, fusion="rescore", text_fields=["nothing", "title"])
    expected = model.recommend(HISTORIES, k=ITEMS, exclude_seen=True)
    model.save_pretrained(tmp_path / "deep" / "folder")
    shutil.rmtree(data_path)
    assert {path.name for path in (tmp_path / "deep" / "folder").iterdir()} == CONTENT
    loaded = Recommender.from_pretrained(tmp_path / "deep" / "folder", device="cpu")
    pd.testing.assert_frame_equal(loaded.recommend(HISTORIES, k=ITEMS, exclude_seen=True), expected, check_exact=True)
    assert type(loaded.model).__name__ == name and not loaded.model.training
    assert loaded.titles["i3"] == "craft item 3" and len(loaded.titles) == ITEMS
    loaded.save_pretrained(tmp_path / "again")
    for file in CONTENT:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "deep" / "folder" / file).read_bytes()


def test_a_changed_ranking_is_saved(data_path, tmp_path):
    _, model, _, _ = prepare("MACRec", data_path)
    changed = model.with_ranking(decode="exact", fusion="rescore", num_beams=7, top=3, certified_rows=50)
    changed.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    assert loaded.model.ranking == changed.ranking != model.ranking
    pd.testing.assert_frame_equal(loaded.recommend(HISTORIES, k=5), changed.recommend(HISTORIES, k=5), check_exact=True)


def test_the_default_of_exclude_seen_is_saved(data_path, tmp_path):
    _, model, _, _ = prepare("TIGER", data_path, exclude_seen=True)
    model.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    own = loaded.recommend(HISTORIES, k=ITEMS)
    assert loaded.excludes_seen and not set(own[own["user"] == "ann"]["item"]) & set(HISTORIES["ann"])
    pd.testing.assert_frame_equal(own, model.recommend(HISTORIES, k=ITEMS), check_exact=True)


@pytest.mark.parametrize("options, message", [
    ({"decod": "beam"}, "Unknown option 'decod'. Did you mean 'decode'"),
    ({"decode": "Exact"}, "decode is 'Exact'; expected beam, certified, exact or fused"),
    ({"fusion": "Official"}, "fusion is 'Official'; expected official, mean"),
    ({"num_beams": 0}, "num_beams is 0; expected a whole number >= 1"),
    ({"top": 0}, "top is 0; expected a whole number >= 1"),
    ({"ranked_tokenizations": 3}, "ranked_tokenizations is 3; expected 1 to 1, the number that the model has"),
])
def test_wrong_options_of_a_ranking_are_user_errors(options, message, data_path):
    _, model, _, _ = prepare("TIGER", data_path)
    with pytest.raises(UserError, match=message):
        model.with_ranking(**options)


@pytest.mark.parametrize("device", ["gpu", "cuda:7"])
def test_an_unavailable_device_is_named(device, folder):
    with pytest.raises(UserError, match=f"device is '{device}'.*expected cpu"):
        Recommender.from_pretrained(folder, device=device)


def test_loads_in_another_process_without_configuration_files(folder, tmp_path):
    code = (
        "import sys\nfrom recbole_macrec import Recommender\n"
        "def refuse(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('.yaml'):\n        sys.exit(f'reads {args[0]}')\n"
        "sys.addaudithook(refuse)\n"
        f"print(Recommender.load({str(folder)!r}).recommend([['i4', 'i5']], k=3)['item'].tolist())"
    )
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(Recommender.load(folder).recommend([["i4", "i5"]], k=3)["item"].tolist())
    assert not any((tmp_path / "empty").iterdir())


def test_loading_a_model_does_not_change_the_random_state(folder):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Recommender.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)


def test_only_pretrained_folders_are_overwritten_and_only_on_request(folder, data_path, tmp_path):
    recommender = Recommender.from_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="already exists.*overwrite=True"):
        recommender.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    recommender.save_pretrained(folder, overwrite=True)
    with pytest.raises(UserError, match="not a model folder"):
        recommender.save_pretrained(data_path, overwrite=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a model folder"):
        recommender.save_pretrained(folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine" and any(data_path.iterdir())
    Recommender.from_pretrained(folder)


def test_failed_save_leaves_no_files(folder, monkeypatch, tmp_path):
    recommender = Recommender.from_pretrained(folder)
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        recommender.save_pretrained(tmp_path / "new")
    with pytest.raises(OSError):
        recommender.save_pretrained(folder, overwrite=True)
    monkeypatch.undo()
    assert not (tmp_path / "new").exists()
    Recommender.from_pretrained(folder)


@pytest.mark.parametrize("file", sorted(CONTENT))
def test_any_flipped_bit_is_an_error(file, folder):
    content = bytearray((folder / file).read_bytes())
    for place in np.linspace(0, len(content) - 1, 9).astype(int):
        flipped = content.copy()
        flipped[place] ^= 1
        (folder / file).write_bytes(flipped)
        with pytest.raises(UserError, match=f"^{folder} can't be read"):
            Recommender.from_pretrained(folder)
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"^{folder} can't be read"):
        Recommender.from_pretrained(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"^{folder} can't be read"):
        Recommender.from_pretrained(folder)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("file", sorted(CONTENT - {"manifest.json"}))
def test_pickles_are_rejected_and_not_executed(file, sealed, folder):
    (folder / file).write_bytes(pickle.dumps(Bomb()))
    if sealed:
        seal(folder)
    with pytest.raises(UserError, match="can't be read as a model") as error:
        Recommender.from_pretrained(folder)
    assert ("changed since" in str(error.value)) != sealed
    assert not os.path.exists("exploded")


def test_weights_of_another_model_are_rejected(folder, data_path, tmp_path):
    _, other, _, _ = prepare("MACRec", data_path, seed=1)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(UserError, match="model.safetensors changed"):
        Recommender.from_pretrained(folder)


def test_manifest_cannot_name_other_files(folder, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("[]")
    digest = hashlib.sha256(b"[]").hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../secret.json", str(secret), "items.json/../../secret.json"):
        seal(folder, sha256=manifest["sha256"] | {name: digest})
        with pytest.raises(UserError, match="names the files"):
            Recommender.from_pretrained(folder)
    modalities = ["../secret", *manifest["modalities"][1:]]
    seal(folder, sha256=manifest["sha256"], modalities=modalities, sizes={m: [8, 8] for m in modalities})
    with pytest.raises(UserError, match="can't be read"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("changes, message", [
    ({"model": "os"}, "Unknown model 'os'"),
    ({"model": "SASRec"}, "Unknown model 'SASRec'"),
    ({"format": "something else"}, "not of the format"),
    ({"sizes": {"text": [2, 2], "image": [8, 8]}}, "codes outside the codebooks"),
    ({"newcomers": 10**9}, "newcomers is 1000000000, .* 30 items"),
    ({"options": {}}, "can't be read"),
    ({"options": []}, "can't be read"),
    ({"quantizer": {"modalities": ["text", "image"], "quantizer": "eval"}}, "quantizer is 'eval'"),
])
def test_an_invalid_manifest_is_a_user_error(changes, message, folder):
    seal(folder, **changes)
    with pytest.raises(UserError, match=message) as error:
        Recommender.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_invalid_paths_are_rejected(folder, data_path, tmp_path):
    for path, message in ((tmp_path / "nowhere", "does not exist"), (data_path, "can't be read")):
        with pytest.raises(UserError, match=message):
            Recommender.from_pretrained(path)
    with pytest.raises(UserError, match="is not a folder"):
        Recommender.from_pretrained(folder / "items.json")
    with pytest.raises(UserError, match="nowhere.pth does not exist"):
        Recommender.load("nowhere.pth")


def test_the_command_prints_ranks_items_scores_and_titles(folder, capsys, tmp_path):
    (tmp_path / "shelf.txt").write_text("i1 \ni20\n\ni4\ni20\n")
    arguments = [f"--model_file={folder}", "--history=i4, i5,i6"]
    assert main([*arguments, "--k=4"]) == 0
    frame = Recommender.load(folder).recommend([["i4", "i5", "i6"]], k=4)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "item", "score", "title"]
    for line, row in zip(lines, frame.itertuples(), strict=True):
        rank, item, score, *title = line.split()
        assert (int(rank), item) == (row.rank, row.item) and title == ["craft", "item", item[1:]]
        assert float(score) == pytest.approx(row.score, abs=1e-5)
    assert main([*arguments, f"--candidates={tmp_path / 'shelf.txt'}", "--exclude_seen"]) == 0
    assert sorted(line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]) == ["i1", "i20"]


@pytest.mark.parametrize("arguments, message", [
    (["--history=i4,zzz"], "'zzz'"),
    (["--history=i4,zzz"], "in Python add them with Recommender.add_items"), (['--history=i4, "z,z"'], "'z,z'"),
    (["--history=,"], "--history=, names no item"), (["--history=i4", "--k=0"], "k is 0"),
    (["--history=i4", "--candidates=none.txt"], "Candidates file none.txt can't be read (No such file or directory)"),
])
def test_command_errors_are_one_line(arguments, message, folder, capsys):
    assert main([f"--model_file={folder}", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_command_accepts_a_checkpoint(data_path, capsys):
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, epochs=1, text_fields=["title"])
    trainer.fit(train, valid)
    capsys.readouterr()
    assert main([f"--model_file={trainer.saved_model_file}", "--history=i4,i5", "--k=3"]) == 0
    expected = load_data_and_model(trainer.saved_model_file)[1].recommend([["i4", "i5"]], k=3)["item"].tolist()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == expected and "craft item" in lines[1]
