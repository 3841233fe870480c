"""Graph representations and their quantizers, and hierarchical k-means."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from small_ids import QUIET

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings, build_semantic_ids
from recbole_macrec.semantic_ids.quantizers.graph import GraphTraining
from recbole_macrec.semantic_ids.quantizers.graph.encoder import SLOPE, GraphEncoder
from recbole_macrec.semantic_ids.quantizers.hierarchical_kmeans import HierarchicalKMeans
from recbole_macrec.semantic_ids.quantizers.letter import COLLABORATIVE
from recbole_macrec.semantic_ids.quantizers.represent import represent_and_learn
from recbole_macrec.semantic_ids.quantizers.rqvae import RQVAE
from recbole_macrec.semantic_ids.rows import Scale

USERS, ITEMS = 30, 24
SMALL = SemanticIDSettings(
    modalities=("text", "sound"), representation="graph", quantizer="rqvae", collision="popularity", codebook_levels=2,
    codebook_size=4, code_dim=4, rqvae_projection=0, rqvae_hidden_sizes=(8,), rqvae_epochs=4, rqvae_warmup_epochs=2,
    graph_sizes=(8, 8, 6), graph_epochs=40, graph_learning_rate=0.02, graph_batch_size=64,
)
TOKENS = tuple(f"i{i}" for i in range(ITEMS))


def shop(seed: int = 0) -> tuple[dict[str, np.ndarray], csr_matrix]:
    """Even users interact with even items, odd users with odd ones; features are noise."""
    rng = np.random.default_rng(seed)
    features = {m: rng.standard_normal((ITEMS, width)).astype(np.float32) for m, width in (("text", 5), ("sound", 3))}
    interacted = rng.random((USERS, ITEMS)) < 0.3
    interacted &= (np.arange(USERS)[:, None] + np.arange(ITEMS)) % 2 == 0
    return features, csr_matrix(interacted.astype(int))


def test_layers_equal_loops_over_nodes_and_neighbours():
    features, interactions = shop()
    interactions[3] = 0  # a user without items
    interactions.eliminate_zeros()
    network = GraphEncoder(interactions, 8, (6, 4, 3), (0.5, 0.5), torch.Generator().manual_seed(0)).eval()
    x = torch.from_numpy(np.concatenate(list(features.values()), axis=1))
    with torch.no_grad():
        for bias in network.bias:
            bias.normal_()
        got = network(x)
        nodes = list(network.users) + [torch.cat([x[i] @ network.project, network.collaborative[i]]) for i in range(ITEMS)]
        interacted = interactions.toarray() > 0
        neighbours = [[USERS + i for i in np.flatnonzero(interacted[u])] for u in range(USERS)]
        neighbours += [np.flatnonzero(interacted[:, i]).tolist() for i in range(ITEMS)]
        for layer in range(2):
            below, nodes = nodes, []
            for node, around in enumerate(neighbours):
                mean = torch.stack([below[n] for n in around]).mean(0) if around else torch.zeros_like(below[0])
                h = below[node] @ network.own[layer] + mean @ network.neighbour[layer] + network.bias[layer]
                nodes.append(torch.where(h > 0, h, SLOPE * h) if layer == 0 else h)
    torch.testing.assert_close(torch.cat(got), torch.stack(nodes), atol=1e-5, rtol=1e-5)


def test_training_moves_users_towards_their_items():
    features, interactions = shop()
    graph, history = GraphTraining(features, interactions, SMALL, "cpu").run(show_progress=False)
    assert graph.users.shape == (USERS, 6) and graph.items.shape == (ITEMS, 6) and graph.items.dtype == np.float32
    assert history[-1]["bpr"] < 0.7 * history[0]["bpr"]
    scores = graph.users @ graph.items.T
    own = (np.arange(USERS)[:, None] + np.arange(ITEMS)) % 2 == 0
    assert scores[own].mean() > scores[~own].mean() + scores.std()


def test_collaborative_vectors_are_no_features_of_the_graph():
    features, interactions = shop()
    vectors = {COLLABORATIVE: np.ones((ITEMS, SMALL.code_dim), dtype=np.float32)}
    with_vectors = GraphTraining(features | vectors, interactions, SMALL.replace(quantizer="letter"), "cpu")
    assert torch.equal(with_vectors.features, GraphTraining(features, interactions, SMALL, "cpu").features)


def test_negatives_that_the_user_interacted_with_are_ignored():
    features, _ = shop()
    everything = csr_matrix(np.ones((USERS, ITEMS), dtype=int))
    training = GraphTraining(features, everything, SMALL, "cpu")
    assert training.loss(torch.arange(50)).item() == 0


@pytest.mark.parametrize("training", ["staged", "joint"])
def test_the_same_seed_gives_the_same_codes_and_representations(training):
    features, interactions = shop()
    settings = SMALL.replace(graph_training=training)
    state = torch.get_rng_state()
    one, two = (represent_and_learn(features, interactions, settings, QUIET) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
    assert np.array_equal(one.modalities["graph"].codes, two.modalities["graph"].codes)
    assert all(np.array_equal(a, b) for a, b in zip(one.graph, two.graph))
    other = represent_and_learn(features, interactions, settings.replace(semantic_id_seed=1), QUIET)
    assert not np.array_equal(one.graph.items, other.graph.items)


def test_joint_training_changes_the_graph_representations():
    features, interactions = shop()
    settings = SMALL.replace(graph_training="joint")
    learnt = represent_and_learn(features, interactions, settings, QUIET)
    epochs = settings.rqvae_warmup_epochs + settings.rqvae_epochs
    assert len(learnt.history) == epochs and all(entry["bpr"] > 0 for entry in learnt.history)
    alone, _ = GraphTraining(features, interactions, settings.replace(graph_epochs=epochs), "cpu").run(show_progress=False)
    assert not np.allclose(learnt.graph.items, alone.items)


@pytest.mark.parametrize("epoch", ["last", "lowest_collision"])
def test_codes_of_joint_training_are_those_of_the_returned_representations(epoch):
    settings = SMALL.replace(graph_training="joint", codes_epoch=epoch, rqvae_epochs=12)
    learnt = represent_and_learn(*shop(), settings, QUIET)
    weights = dict(learnt.modalities["graph"].weights)
    scale = Scale(weights.pop("mean"), weights.pop("scale"))
    collisions = [entry["health"]["graph"]["collision_rate"] for entry in learnt.history if "health" in entry]
    assert np.argmin(collisions) < len(collisions) - 1  # the two options differ
    model = RQVAE(learnt.graph.items.shape[1], settings, torch.Generator()).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        codes = model.quantizer.codes(model.encode(scale.apply(learnt.graph.items)))
    assert np.array_equal(codes.numpy(), learnt.modalities["graph"].codes)


def build(folder, interactions, **changed):
    features, _ = shop()
    return build_semantic_ids(features, TOKENS, SMALL.replace(**changed), folder, QUIET, interactions)


def bundles(folder) -> set[str]:
    return {path.name for path in folder.glob("semantic_ids-*") if path.is_dir()}


def test_bundle_name_depends_on_interactions_if_ids_do(tmp_path):
    _, interactions = shop()
    more = interactions.copy()
    more[0, 0] += 1
    for changed, kept in (({}, 2), ({"representation": "concatenated"}, 2),
                          ({"representation": "concatenated", "collision": "extra_token"}, 1),
                          ({"representation": "concatenated", "collision": "extra_token", "encoder_input": "graph"}, 2)):
        before = bundles(tmp_path)
        build(tmp_path, interactions, **changed), build(tmp_path, more, **changed)
        assert len(bundles(tmp_path) - before) == kept, changed


def test_codes_do_not_depend_on_the_order_of_users_and_items(tmp_path):
    features, interactions = shop()
    users, items = (np.random.default_rng(seed).permutation(n) for seed, n in ((1, USERS - 1), (2, ITEMS)))
    users = np.append(0, 1 + users)  # RecBole's padding stays first
    names = [f"u{i}" for i in range(USERS)]

    def learnt(folder, features, interactions, item_tokens, user_tokens):
        return build_semantic_ids(features, item_tokens, SMALL, folder, QUIET, interactions, user_tokens)

    built = learnt(tmp_path / "one", features, interactions, TOKENS, names)
    other = learnt(tmp_path / "two", {m: x[items] for m, x in features.items()}, interactions[users][:, items],
                   [TOKENS[i] for i in items], [names[i] for i in users])
    assert bundles(tmp_path / "one") == bundles(tmp_path / "two") and built.fingerprint() == other.fingerprint()
    assert np.array_equal(other.graph.users, built.graph.users[users])
    assert np.array_equal(other.graph.items, built.graph.items[items])


def test_a_bundle_restores_the_graph(tmp_path):
    _, interactions = shop()
    built, again = build(tmp_path, interactions), build(tmp_path, interactions.tocsc())
    assert len(bundles(tmp_path)) == 1
    assert all(np.array_equal(a, b) for a, b in zip(built.graph, again.graph))
    assert built.codes["graph"].shape == (ITEMS, 3) and len(np.unique(built.codes["graph"], axis=0)) == ITEMS
    counts = np.asarray(interactions.sum(0)).reshape(-1)
    for prefix in np.unique(built.raw_codes["graph"], axis=0):
        group = np.flatnonzero((built.raw_codes["graph"] == prefix).all(1))
        ranked = group[np.argsort(built.codes["graph"][group, 2])]
        assert (np.diff(counts[ranked]) <= 0).all()


def test_graph_without_interactions_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="training interactions"):
        build(tmp_path, None)
    with pytest.raises(UserError, match="no training interactions"):
        build(tmp_path, csr_matrix((USERS, ITEMS), dtype=int))


@pytest.mark.parametrize("training", ["staged", "joint"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_diverging_graph_names_its_learning_rate(training, epochs):
    """The loss of the only step of an epoch is finite."""
    features, interactions = shop()
    settings = SMALL.replace(
        graph_training=training, graph_learning_rate=1e30, graph_epochs=epochs, graph_batch_size=interactions.nnz
    )
    with pytest.raises(UserError, match="became (infinite|nan|inf) in epoch 1 with graph_learning_rate = 1e"):
        represent_and_learn(features, interactions, settings, QUIET)


def test_hierarchical_kmeans_clusters_within_clusters():
    centres = np.array([[0, 0], [0, 6], [50, 0], [50, 6]], dtype=np.float32)
    x = np.repeat(centres, 5, axis=0) + 0.1 * np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    settings = SMALL.replace(quantizer="hierarchical_kmeans", codebook_size=2, codebook_levels=4, standardize=False)
    part = HierarchicalKMeans().learn({"graph": x}, settings).modalities["graph"]
    groups = [len({tuple(row[:level]) for row in part.codes.tolist()}) for level in (1, 2)]
    assert groups == [2, 4] and len({tuple(row[:2]) for row in part.codes[:5].tolist()}) == 1
    assert part.geometry is None and part.codes.max() == 1
    cluster = np.unique(part.codes, axis=0, return_inverse=True)[1].reshape(-1)
    means = np.stack([x[cluster == number].mean(0) for number in range(cluster.max() + 1)])
    assert part.reconstruction_error == pytest.approx(np.square(x - means[cluster]).mean(), rel=1e-3)
    assert set(part.weights) == {"mean", "scale"}
    wide = HierarchicalKMeans().learn({"graph": x}, settings.replace(codebook_size=20, codebook_levels=2)).modalities["graph"]
    assert len(np.unique(wide.codes, axis=0)) == 20  # no more items than codes: each has one of its own
