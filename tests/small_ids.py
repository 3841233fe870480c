"""Semantic IDs of 160 items with clustered features."""
import numpy as np

from recbole_macrec.semantic_ids import Execution, SemanticIDSettings, build_semantic_ids, represent_and_learn

QUIET = Execution(show_progress=False)
ITEMS = 160
TOKENS = [f"i{n}" for n in range(ITEMS)]
SMALL = SemanticIDSettings(
    ("text", "image"), codebook_levels=3, codebook_size=12, code_dim=6, rqvae_projection=0, rqvae_hidden_sizes=(24,),
    rqvae_epochs=6, rqvae_warmup_epochs=3, rqvae_batch_size=64, con_layers=(1, 2), pseudo_labels=20,
)


def clustered(seed, width=10):
    """Features in clusters: 12 centres with 5 sub-centres each."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.normal(size=(12, width)) * 3, rng.normal(size=(5, width))
    x = coarse[rng.integers(0, 12, ITEMS)] + fine[rng.integers(0, 5, ITEMS)] + 0.2 * rng.normal(size=(ITEMS, width))
    return x.astype(np.float32)


FEATURES = {"text": clustered(1), "image": clustered(2, 8), "sound": clustered(3, 6)}


def build(folder, settings=SMALL, features=FEATURES, tokens=TOKENS):
    return build_semantic_ids(features, tokens, settings, folder, QUIET)


def learn(features, settings):
    return represent_and_learn(features, None, settings, QUIET)
