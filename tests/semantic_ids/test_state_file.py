"""A quantizer's training that is interrupted resumes, and gives the same semantic IDs as an uninterrupted one."""
import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix
from small_ids import FEATURES, ITEMS, QUIET, SMALL, TOKENS

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import build_semantic_ids
from recbole_macrec.semantic_ids.quantizers import state_file
from recbole_macrec.semantic_ids.quantizers.graph import GraphTraining
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining

GRAPH = {"representation": "graph", "graph_sizes": (8, 8, 6), "graph_epochs": 3, "code_dim": 4, "quantizer": "rqvae"}
INTERACTIONS = csr_matrix((np.random.default_rng(0).random((30, ITEMS)) < 0.1).astype(int))


@pytest.fixture
def epochs(monkeypatch):
    """Function: stop the training before an epoch; returns the list of the epochs that are computed, which grows."""
    computed: list[int] = []
    limit = {"epochs": 10**6}

    def count(training) -> None:
        epoch = training.epoch

        def counted(self, *losses):
            if len(computed) >= limit["epochs"]:
                raise KeyboardInterrupt
            computed.append(len(computed))
            return epoch(self, *losses)

        monkeypatch.setattr(training, "epoch", counted)

    def stop_before(number: int) -> list[int]:
        computed.clear()
        limit["epochs"] = number
        return computed

    count(RQVAETraining)
    count(GraphTraining)
    monkeypatch.setattr(state_file, "KEEP_SECONDS", 0)
    return stop_before


def build(folder, settings):
    return build_semantic_ids(FEATURES, TOKENS, settings, folder, QUIET, interactions=INTERACTIONS)


def contents(folder) -> dict:
    """Everything in the only bundle of ``folder``, and the names of all folders."""
    (bundle,) = folder.glob("semantic_ids-*/")
    found = {path.name: load_file(path) for path in bundle.glob("*.safetensors")}
    manifest = json.loads((bundle / "manifest.json").read_text())
    return {**found, "history": manifest["history"], "folders": sorted(path.name for path in folder.iterdir() if path.is_dir())}


@pytest.mark.parametrize("options, stops", [
    ({"quantizer": "cross_modal_rqvae"}, [3, 8]),
    ({"quantizer": "rqvae", "codes_epoch": "last"}, [2, 13]),  # the second modality begins after 9
    (GRAPH, [2, 9]),  # the quantizer begins after 3
    ({**GRAPH, "graph_training": "joint"}, [8, 12]),  # an epoch of each, in turn
], ids=["joint modalities", "each modality", "graph", "joint graph"])  # fmt: skip
def test_interrupted_training_gives_the_same_ids(options, stops, epochs, tmp_path):
    settings = SMALL.replace(**options)
    total = epochs(10**6)
    build(tmp_path / "whole", settings)
    expected, number = contents(tmp_path / "whole"), len(total)
    for stop in stops:
        folder = tmp_path / f"stopped-{stop}"
        epochs(stop)
        with pytest.raises(KeyboardInterrupt):
            build(folder, settings)
        resumed = epochs(10**6)
        build(folder, settings)
        assert len(resumed) == number - stop
        found = contents(folder)
        np.testing.assert_equal(found, expected)


def test_short_training_keeps_no_state(epochs, tmp_path, monkeypatch):
    monkeypatch.setattr(state_file, "KEEP_SECONDS", 300)
    epochs(8)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, SMALL)
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize("kind", ["truncated", "one byte"])
def test_a_damaged_state_is_an_error_that_names_the_file(kind, epochs, tmp_path):
    epochs(4)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, SMALL)
    (state,) = tmp_path.glob(".unfinished-*/*.pt")
    content = bytearray(state.read_bytes())
    middle = content.find(b"/data/") + 100  # within the numbers of the first tensor
    content[middle] ^= 1
    state.write_bytes(content if kind == "one byte" else content[:1000])
    epochs(10**6)
    with pytest.raises(UserError, match=f"{state.name}.*delete it to train from the beginning"):
        build(tmp_path, SMALL)
