"""A new quantizer or collision strategy needs one line in its registry, after which options, learning and bundles support
it."""
import numpy as np
import pytest
import torch
from small_ids import FEATURES, TOKENS

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings, build_semantic_ids
from recbole_macrec.semantic_ids.codes import LearntCodes, LearntModality
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS
from recbole_macrec.semantic_ids.collisions.base import Resolution, Resolved, with_rank
from recbole_macrec.semantic_ids.frozen import FrozenQuantizer
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS
from recbole_macrec.semantic_ids.quantizers.base import Execution, Quantizer
from recbole_macrec.semantic_ids.quantizers.rqvae_training import CrossModalRQVAEQuantizer
from recbole_macrec.semantic_ids.rows import Scale


class SignBits(Quantizer):
    """The code of level l is 1 where feature l is above its mean."""

    def learn(self, features, settings, execution=Execution()):
        modalities = {}
        for modality, x in features.items():
            scale = Scale.fit(x, standardize=True)
            codes = (scale.apply(x[:])[:, : settings.codebook_levels] > 0).long().numpy()
            modalities[modality] = LearntModality(codes, None, 1.0, {"mean": scale.mean, "scale": scale.scale})
        return LearntCodes(modalities, history=[])


class LastFirst(Resolution):
    """An additional token: the rank among the items with the same codes, the last item first."""

    def resolve(self, codes, sizes, context) -> Resolved:
        return with_rank(codes, sizes, -np.arange(len(codes)))


def options(**values):
    return dict.fromkeys(SemanticIDSettings.model_fields) | {"seed": None} | values


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "sign_bits", SignBits)
    monkeypatch.setitem(RESOLUTIONS, "last_first", LastFirst)


def test_registered_names_are_values_of_the_options(registered, tmp_path):
    chosen = options(quantizer="sign_bits", collision="last_first", codebook_levels=3, codebook_size=2)
    settings = SemanticIDSettings.from_config(chosen, ["text"])
    ids = build_semantic_ids({"text": FEATURES["text"]}, TOKENS, settings, tmp_path)
    above_mean = FEATURES["text"][:, :3] > FEATURES["text"][:, :3].mean(0)
    assert np.array_equal(ids.raw_codes["text"], above_mean)
    assert len(np.unique(ids.codes["text"], axis=0)) == len(TOKENS) and ids.codes["text"].shape[1] == 4
    frozen = FrozenQuantizer.of_bundle(ids.bundle, ["text"])
    with pytest.raises(
        UserError, match="sign_bits cannot compute IDs of new items.* use cross_modal_rqvae or rqvae or rq_kmeans"
    ):
        frozen.quantize("text", torch.zeros(1, FEATURES["text"].shape[1]).numpy())


@pytest.mark.parametrize(
    "option, name, nearest", [("quantizer", "sign_bit", "sign_bits"), ("collision", "last_frist", "last_first")]
)
def test_messages_list_registered_names(registered, option, name, nearest):
    with pytest.raises(UserError, match=f"{option} .*{name}.*'{nearest}'"):
        SemanticIDSettings.from_config(options(**{option: name}), ["text"])


def test_presets_fit_the_levels_of_a_registered_joint_quantizer(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "own", type("Own", (CrossModalRQVAEQuantizer,), {}))
    chosen = options(quantizer="own", rqvae_preset="paper", codebook_levels=3)
    assert SemanticIDSettings.from_config(chosen, ["text", "image"]).con_layers == (1, 2)


@pytest.mark.parametrize("registry", [QUANTIZERS, RESOLUTIONS], ids=["quantizers", "collision strategies"])
def test_every_entry_has_a_description(registry):
    for entry in registry.values():
        assert entry.__doc__.strip().splitlines()[0].endswith(".")
