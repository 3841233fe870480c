"""No model or quantizer has a gradient that is added in the order of threads: the same seed gives the same bits every time."""

import numpy as np
import planted
import pytest
import small_models
import torch
from scipy.sparse import csr_matrix
from small_ids import QUIET
from small_models import PAPERS, QUICK, data_path  # noqa: F401  data_path is a fixture
from thread_order import NoSumsInThreadOrder
from threadpoolctl import threadpool_limits

from recbole_macrec.baselines.pairwise import PairwiseRecommender
from recbole_macrec.baselines.text_to_text.recommender import TextToTextRecommender
from recbole_macrec.config.registry import models
from recbole_macrec.data.encoders import RawItem, create_encoder
from recbole_macrec.model.windowed import WindowedRecommender
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.semantic_ids.quantizers.letter import COLLABORATIVE
from recbole_macrec.semantic_ids.quantizers.represent import represent_and_learn
from recbole_macrec.semantic_ids.settings import SemanticIDSettings
from recbole_macrec.utils.lookup import rows_of

IDS = SemanticIDSettings(
    ("text", "image"),
    codebook_levels=2,
    codebook_size=4,
    code_dim=4,
    rqvae_projection=0,
    rqvae_hidden_sizes=(8,),
    rqvae_epochs=2,
    rqvae_warmup_epochs=1,
    con_layers=(1,),
    pseudo_labels=4,
    graph_sizes=(8, 8, 6),
    graph_epochs=2,
)
MODELS = models().items()
TEXT_TO_TEXT = [name for name, model in MODELS if issubclass(model, TextToTextRecommender)]
WINDOWED = [name for name, model in MODELS if issubclass(model, WindowedRecommender) and name not in TEXT_TO_TEXT]
QUICK_TEXT = {"item_index": "codes", "quantizer": "rq_kmeans", "collision": "reassign", "text_fields": ["title"]}


@pytest.fixture(autouse=True)
def one_thread():
    """Other threads compute parts of a batch, and the check only sees its own."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(50,), (50, 3)], ids=["vector", "matrix"])
def test_the_check_finds_an_index_with_equal_rows(shape):
    table, rows = torch.randn(shape, requires_grad=True), torch.tensor([4, 7, 4])
    expected = torch.autograd.grad(table[rows].sum(), table)[0]
    with NoSumsInThreadOrder():
        assert torch.equal(torch.autograd.grad(rows_of(table, rows).sum(), table)[0], expected)
        torch.autograd.grad(table[rows[:2]].sum() + table[table.detach() > 0].sum(), table)
        with pytest.raises(AssertionError, match="adds to the same place"):
            torch.autograd.grad(table[rows].sum(), table)


@pytest.mark.parametrize("name", [name for name, model in MODELS if issubclass(model, PairwiseRecommender)])
def test_general_models(name, tmp_path):
    _, _, trainer, (train, _, _) = planted.prepare(name, planted.write_planted(tmp_path), epochs=1, eval_step=0)
    with NoSumsInThreadOrder():
        trainer.fit(train)


@pytest.mark.parametrize("name", WINDOWED)
def test_models_of_sequences(name, data_path):
    _, _, trainer, (train, _, _) = small_models.prepare(name, data_path, **QUICK)
    with NoSumsInThreadOrder():
        trainer.fit(train)


@pytest.mark.parametrize(
    "name, options",
    [
        ("TIGER", {"modalities": ["text"]}),
        ("MACRec", {}),
        ("MACRec", {"history": "both"}),
        ("MQL4GRec", {"dense_head": True, "decode": "fused"}),
    ],
)
def test_decoder_only_networks(name, options, data_path):
    options = {"network": "decoder_only", "training": "per_user", "output": "trie", **options}
    _, _, trainer, (train, _, _) = small_models.prepare(name, data_path, **{**QUICK, **options})
    with NoSumsInThreadOrder():
        trainer.fit(train)


@pytest.mark.parametrize("name", TEXT_TO_TEXT)
def test_text_to_text_models(name, data_path):
    _, _, trainer, (train, _, _) = small_models.prepare(name, data_path, **QUICK_TEXT, epochs=1)
    with NoSumsInThreadOrder():
        trainer.fit(train)


def shop() -> tuple[dict[str, np.ndarray], csr_matrix]:
    """Features of 40 items, and interactions of 30 users."""
    rng = np.random.default_rng(0)
    widths = {"text": 5, "image": 3, COLLABORATIVE: 4}
    features = {name: rng.standard_normal((40, width)).astype(np.float32) for name, width in widths.items()}
    return features, csr_matrix((rng.random((30, 40)) < 0.3).astype(int))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_quantizers(quantizer):
    features, interactions = shop()
    with NoSumsInThreadOrder():
        represent_and_learn(features, interactions, IDS.replace(quantizer=quantizer), QUIET)


@pytest.mark.parametrize("training", ["staged", "joint"])
def test_graph_representations(training):
    settings = IDS.replace(representation="graph", quantizer="rqvae", collision="popularity", graph_training=training)
    with NoSumsInThreadOrder():
        represent_and_learn(*shop(), settings, QUIET)


@pytest.mark.parametrize("encoder", ["tfidf", "cooccurrence"])
def test_features_do_not_depend_on_the_number_of_threads(encoder):
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(400)]
    items = [
        RawItem(f"i{number}", tuple(rng.choice(words, 6)), users=rng.choice(900, 8, replace=False)) for number in range(700)
    ]
    found = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            found.append(create_encoder(encoder).encode(items))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])
