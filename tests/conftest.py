"""Fixtures for all tests: a temporary working directory and a tiny dataset."""
import logging
import os
import random
import sys
import threading
from pathlib import Path

# Test workers and their processes share the cores. OpenMP threads that wait for a busy core are ten times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest

try:
    import recbole_macrec  # noqa: F401  repairs RecBole before any test imports it
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}")

import torch
from process_pool import ProcessPool, server_context
from torch.multiprocessing import start_processes
from web_server import Server

TINY = "tiny"
# A small network, for tests whose result does not depend on its size.
NETWORK = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "num_beams": 10}
CATEGORIES = ("wool", "paper", "beads")

# Released catalogues are not part of the repository: set MACREC_SHARED_DATA=DIR with DIR/Arts and DIR/Instruments.
SHARED_DATA = Path(os.environ.get("MACREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PUBLISHED = {"Instruments": (17112, 6250, 136226), "Arts": (22171, 9416, 174079)}  # users, items, interactions


def needs_shared_data(name: str):
    """A test parameter that is skipped if the released catalogue ``name`` is unavailable."""
    there = (SHARED_DATA / name / f"{name}.inter.json").is_file()
    return pytest.param(name, marks=pytest.mark.skipif(not there, reason=f"set MACREC_SHARED_DATA=DIR with DIR/{name}"))


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path, monkeypatch):
    """Run in a temporary folder with an empty command line: RecBole writes saved/, log/ and log_tensorboard/ to the
    working directory and reads ``sys.argv``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])


@pytest.fixture(autouse=True)
def own_logging():
    """Restore the root logger after the test: RecBole sets its level and handlers."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def own_number_of_threads():
    """Restore the number of CPU threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def process_pool():
    """A process pool; see ``process_pool.py``."""
    process_pool = ProcessPool()
    yield process_pool
    process_pool.close()


@pytest.fixture(autouse=True)
def processes_from_the_server(monkeypatch):
    """Fork the processes of ``nproc`` and of measurements from a server; see ``process_pool.py``. Like new processes, they have
    only the arguments that were pickled for them. Commands that a test starts itself still create new processes."""

    def start(*args, **kwargs):
        server_context()
        return start_processes(*args, **kwargs, start_method="forkserver")

    monkeypatch.setattr("torch.multiprocessing.spawn", start)
    monkeypatch.setattr("recbole_macrec.benchmark.speed.measure.get_context", server_context)


@pytest.fixture
def server():
    """A local web server; see ``web_server.py``."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tiny_dataset(tmp_path) -> Path:
    """Write the atomic files of the dataset ``tiny`` and return its data path (the folder that contains ``tiny/``)."""
    return write_tiny_dataset(tmp_path / "data")


def write_tiny_dataset(data_path: Path, name: str = TINY, n_users: int = 40, n_items: int = 30) -> Path:
    """Write ``name.inter`` and ``name.item`` under ``data_path/name`` and return ``data_path``.

    Every user has six to nine interactions: mostly with the next item, sometimes with a random one. Items have a title, a
    price (missing for one item) and a token sequence ``categories`` (empty for another). ``i0`` has no interactions.
    """
    folder = data_path / name
    folder.mkdir(parents=True)
    rng = random.Random(7)
    with open(folder / f"{name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(n_users):
            item = 1 + user % (n_items - 1)
            for step in range(6 + user % 4):
                file.write(f"u{user}\ti{item}\t{100 * user + step}\n")
                item = rng.randrange(1, n_items) if rng.random() < 0.1 else 1 + item % (n_items - 1)
    with open(folder / f"{name}.item", "w", encoding="utf-8") as file:
        file.write("item_id:token\ttitle:token_seq\tprice:float\tcategories:token_seq\n")
        for item in range(n_items):
            price = "" if item == 3 else f"{item}.5"
            categories = "" if item == 5 else f"{CATEGORIES[item % 3]} craft"
            file.write(f"i{item}\tcraft item {item}\t{price}\t{categories}\n")
    return data_path
