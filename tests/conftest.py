"""Fixtures for every test: a folder of its own to run in, and a tiny data set."""
import logging
import os
import random
import sys
import threading
from pathlib import Path

# Workers share the cores, as do the processes they start: OpenMP threads that wait for a core another worker has are ten times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest

try:
    import recbole_macrec  # noqa: F401  repairs RecBole before any test imports it
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}")

from process_pool import ProcessPool
from web_server import Server

TINY = "tiny"
CATEGORIES = ("wool", "paper", "beads")

# Released catalogues that the project does not contain: MACREC_SHARED_DATA=DIR with DIR/Arts and DIR/Instruments.
SHARED_DATA = Path(os.environ.get("MACREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PUBLISHED = {"Instruments": (17112, 6250, 136226), "Arts": (22171, 9416, 174079)}  # users, items, interactions


def needs_shared_data(name: str):
    """A parameter that skips its test where the released catalogue ``name`` is not at hand."""
    there = (SHARED_DATA / name / f"{name}.inter.json").is_file()
    return pytest.param(name, marks=pytest.mark.skipif(not there, reason=f"set MACREC_SHARED_DATA=DIR with DIR/{name}"))


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path, monkeypatch):
    """Run in a temporary folder with a bare command line: RecBole writes saved/, log/ and log_tensorboard/ into the
    working directory and reads ``sys.argv``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])


@pytest.fixture(autouse=True)
def no_waiting_for_the_load(monkeypatch):
    """RecBole watches the processor for a second at the end of every run."""
    monkeypatch.setattr("psutil.cpu_percent", lambda *args, **kwargs: 0.0)


@pytest.fixture(autouse=True)
def own_logging():
    """Give the root logger back as it was: RecBole sets its level and handlers."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def process_pool():
    """Starts processes; see ``process_pool``."""
    process_pool = ProcessPool()
    yield process_pool
    process_pool.close()


@pytest.fixture
def server():
    """A web server on this machine; see ``web_server``."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tiny_dataset(tmp_path) -> Path:
    """Write the atomic files of the data set ``tiny`` and return its data path (the folder that holds ``tiny/``)."""
    return write_tiny_dataset(tmp_path / "data")


def write_tiny_dataset(data_path: Path, name: str = TINY, n_users: int = 40, n_items: int = 30) -> Path:
    """Write ``name.inter`` and ``name.item`` under ``data_path/name`` and return ``data_path``.

    Every user walks six to nine steps through the items: mostly to the next item, sometimes to a random one. Items have
    a title, a price (missing for one) and a ``categories`` token sequence (empty for another); nobody bought ``i0``.
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
