"""Encoding in shards: resuming, several processes, too little memory, and the manifest."""
import json
import os
import shutil
import signal
import socket
import sys
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained_models import WORDS, make

from recbole_macrec.commands.data import main
from recbole_macrec.data import atomic
from recbole_macrec.data.encoders import batches, pretrained, shards
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import Encoding, encode_missing, load_or_encode
from recbole_macrec.data.encoders.text_model import TextModel
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError

COUNT, SHARD = 30, 8  # items, items of a shard: three shards of 8 and one of 6


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make("bert", tmp_path_factory.mktemp("models"))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A dataset folder of 30 items with titles and descriptions of many lengths."""
    monkeypatch.setattr(shards, "SHARD_ITEMS", SHARD)
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    words = [" ".join(WORDS[(n + i) % len(WORDS)] for i in range(1 + n * 7 % 11)) for n in range(COUNT)]
    atomic.write(folder / "shop.item", {"item_id:token": [f"i{n}" for n in range(COUNT)], "title:token_seq": words,
                                        "description:token_seq": ["" if n % 3 else words[-n] for n in range(COUNT)]})
    return folder


def encode(shop, bert, **options):
    chosen = {"model": str(bert), "batch_size": 3, **options}
    return encode_missing(ItemContent(shop, "shop"), "text", chosen, Encoding(device="cpu")).matrix


def encoded_batches(monkeypatch):
    """Return a list to which the number of rows of every later batch is appended."""
    seen, pool = [], TextModel._pool
    monkeypatch.setattr(TextModel, "_pool", lambda self, batch: seen.append(len(batch)) or pool(self, batch))
    return seen


def test_shards_do_not_change_features(shop, bert, monkeypatch):
    several = np.array(encode(shop, bert))
    shutil.rmtree(shop / "features")
    monkeypatch.setattr(shards, "SHARD_ITEMS", 1000)
    assert np.abs(encode(shop, bert) - several).max() < 1e-4 and several.shape == (COUNT, 16)
    assert sorted(path.name for path in (shop / "features").iterdir()) == [
        ".text.lock", "text.encoded.json", "text.items.txt", "text.npy"]


def killed_in_the_third_shard(shop, bert):
    pool, rows = TextModel._pool, []

    def dies(self, batch):
        rows.extend(field.row for field in batch)
        if len(set(rows)) == SHARD and len(list(shop.glob("features/.text.shards/*/0*.npy"))) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return pool(self, batch)

    TextModel._pool, shards.SHARD_ITEMS = dies, SHARD
    encode(shop, bert)


def test_a_killed_run_loses_at_most_one_shard(shop, bert, monkeypatch, process_pool):
    whole = np.array(encode(shop, bert))
    shutil.rmtree(shop / "features")
    assert process_pool.exit_codes((killed_in_the_third_shard, shop, bert)) == [-signal.SIGKILL]
    finished = sorted(shop.glob("features/.text.shards/*/0*.npy"))
    assert [path.name for path in finished] == ["00000.npy", "00001.npy"]
    finished[1].write_bytes(finished[1].read_bytes()[:-1])  # a truncated shard is encoded again
    texts = [text for _, *texts in atomic.read_items(shop, "shop").itertuples(index=False) for text in texts]
    seen = encoded_batches(monkeypatch)
    assert np.array_equal(encode(shop, bert), whole)
    assert sum(seen) == sum(bool(text) for text in texts[2 * SHARD :])
    assert not (shop / "features/.text.shards").exists()


def launched(shop, bert, rank, port, ends):
    """Run the command as one of two processes of torchrun; the process of rank ``ends`` exits in its first batch."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    shards.SHARD_ITEMS = SHARD
    if rank == ends:
        TextModel._pool = lambda self, batch: os._exit(7)
    with open(shop.parent / f"rank{rank}.txt", "w") as errors, redirect_stderr(errors):
        code = main(["encode", "shop", f"--data_path={shop.parent}", "--modality=text", f"--model={bert}", "--batch_size=3"])
    sys.exit(code)


def both(process_pool, shop, bert, ends=None):
    """Return the exit codes of two processes that encode together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return process_pool.exit_codes(*((launched, shop, bert, rank, port, ends) for rank in range(2)))


def test_two_processes_share_the_shards(shop, bert, process_pool):
    whole = np.array(encode(shop, bert))
    record = json.loads((shop / "features/text.encoded.json").read_text())
    shutil.rmtree(shop / "features")
    assert both(process_pool, shop, bert) == [0, 0]
    assert np.array_equal(FeatureTable.load(shop, "text").matrix, whole)
    assert json.loads((shop / "features/text.encoded.json").read_text()) == record
    shown = [(shop.parent / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert "process 1 of 2" in shown[0] and "items/s" in shown[0] and "items/s" not in shown[1]


def test_end_of_one_process_ends_the_others(shop, bert, process_pool):
    assert both(process_pool, shop, bert, ends=1) == [1, 7]
    assert "error: another process of this run ended" in (shop.parent / "rank0.txt").read_text()
    assert [path.name for path in sorted(shop.glob("features/.text.shards/*/0*.npy"))] == ["00000.npy", "00002.npy"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
@pytest.mark.parametrize("limits, most, option", [({"batch_size": 7}, 3, "batch_size: 3"),
                                                  ({"batch_size": 30, "batch_tokens": 90}, 4, "batch_tokens: ")])
def test_out_of_memory_halves_the_batch_with_a_warning(shop, bert, monkeypatch, caplog, error, limits, most, option):
    expected, pool, sizes = np.array(encode(shop, bert)), TextModel._pool, []
    shutil.rmtree(shop / "features")

    def small_memory(self, batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise error
        return pool(self, batch)

    monkeypatch.setattr(TextModel, "_pool", small_memory)
    assert np.abs(encode(shop, bert, **limits) - expected).max() < 1e-4
    assert max(sizes) > most and option in caplog.text and "Not enough memory for a batch of" in caplog.text
    assert sum(size > most for size in sizes) == len(caplog.records)


def test_out_of_memory_for_one_text_is_an_error(shop, bert, monkeypatch):
    def no_memory(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(TextModel, "_pool", no_memory)
    with pytest.raises(UserError, match="one text or image at a time; set a lower max_length"):
        encode(shop, bert)


def test_other_errors_are_raised():
    def fails(batch):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(batches.Batches(2).run([1, 2], fails))


def test_only_settings_that_change_features_encode_again(shop, bert, monkeypatch, tmp_path):
    encode(shop, bert)
    record = json.loads((shop / "features/text.encoded.json").read_text())
    assert record["model"] == str(bert) and record["revision"] == record["settings"]["content"] and record["dimensions"] == 16
    assert record["settings"]["pooling"] == "mean" and set(record["versions"]) == {"torch", "transformers"}
    seen = encoded_batches(monkeypatch)
    monkeypatch.setattr(pretrained, "version", lambda name: "99.0")
    encode(shop, bert, batch_size=5)
    moved = Path(shutil.copytree(bert, tmp_path / "moved"))
    encode(shop, moved)
    assert not seen
    encode(shop, bert, max_length=4)
    assert seen
    del seen[:]
    (moved / "special_tokens_map.json").write_text("{}")
    encode(shop, moved, max_length=4)
    assert seen


@pytest.mark.parametrize("precision, dtype", [("auto", np.float32), ("bf16", np.float16)])
def test_shards_of_half_precision_are_float16(shop, bert, monkeypatch, precision, dtype):
    kept = []
    monkeypatch.setattr(shards.Shards, "remove", lambda self: kept.extend(np.load(path) for path in self._folder.glob("*.npy")))
    features = encode(shop, bert, precision=precision)
    assert features.dtype == np.float32 and [part.dtype for part in kept] == [dtype] * 4


def test_items_with_features_too_large_for_float16_are_named(shop, bert, monkeypatch):
    monkeypatch.setattr(TextModel, "_pool", lambda self, batch: torch.full((len(batch), 2), 1e6))
    with pytest.raises(UserError, match=r"NaN or infinite features for 8 items \('i0', .*precision: fp32"):
        encode(shop, bert, precision="bf16")


def test_a_modality_may_have_any_name(shop, bert):
    tables = load_or_encode(ItemContent(shop, "shop", ["title"]), ["words"], {"words": {"model": str(bert)}})
    assert tables["words"].matrix.shape == (COUNT, 16)


COMMANDS = {
    "no encoder": ([], ["--encoder", "--model"]),
    "two encoders": (["--encoder=tfidf", "--model=x/y"], ["either --encoder"]),
    "encoder of interactions": (["--encoder=cooccurrence"], ["cooccurrence reads the training interactions"]),
    "unknown encoder": (["--encoder=tfidff"], ["'tfidff'", "Did you mean 'tfidf'?"]),
    "option of a simple encoder": (["--encoder=tfidf", "--max_length=3"], ["--max_length", "tfidf"]),
    "mistyped option": (["--encoder=tfidf", "--max_lenght=3"], ["'--max_lenght'", "'--max_length'"]),
    "number as text": (["--model=x/y", "--batch_size=many"], ["--batch_size", "many"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_invalid_commands(case, shop, capsys):
    words, expected = COMMANDS[case]
    assert main(["encode", "shop", f"--data_path={shop.parent}", "--modality=text", *words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not [text for text in expected if text not in error], error


def test_items_without_text_get_the_mean_on_request(shop, capsys):
    path = shop / "shop.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].split("\t")[0] + "\t" * lines[0].count("\t"), *lines[2:]]) + "\n")
    words = ["encode", "shop", f"--data_path={shop.parent}", "--modality=text", "--encoder=tfidf"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "empty text" in error and "missing_texts" in error
    assert main([*words, "--missing_texts=mean"]) == 0
    matrix = FeatureTable.load(shop, "text").matrix
    np.testing.assert_allclose(matrix[0], matrix[1:].mean(0), atol=1e-5)


def test_imported_features_are_not_replaced(shop, capsys):
    FeatureTable(tuple(f"i{n}" for n in range(COUNT)), np.ones((COUNT, 3), dtype=np.float32)).save(shop, "text")
    assert main(["encode", "shop", f"--data_path={shop.parent}", "--modality=text", "--encoder=tfidf"]) == 1
    assert "was imported" in capsys.readouterr().err and FeatureTable.load(shop, "text").matrix.shape == (COUNT, 3)
