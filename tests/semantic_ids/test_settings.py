"""Options: defaults, presets, precedence, and every invalid value."""
import pytest

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.presets import PRESETS
from recbole_macrec.semantic_ids.settings import SemanticIDSettings


class Config(dict):
    """Like RecBole's Config, which returns None for absent options."""

    def __getitem__(self, key):
        return self.get(key)


def read(modalities=("text", "image"), **options):
    return SemanticIDSettings.from_config(Config(options), modalities)


def test_empty_configuration_gives_the_defaults():
    assert read() == SemanticIDSettings(("text", "image"))
    assert read(["text"]).quantizer == "rqvae"


def test_default_seed_is_that_of_recbole():
    assert read(seed=7).semantic_id_seed == 7
    assert read(seed=7, semantic_id_seed=0).semantic_id_seed == 0


def test_presets_differ_and_options_override_them():
    released = read(rqvae_preset="released")
    assert (released.residual, released.con_layers) == ("straight_through", (0, 1, 2, 3))
    assert released.con_positives == "self"
    assert (released.lambda_con, released.codes_epoch) == (1.0, "lowest_collision")
    paper = read(rqvae_preset="paper")
    assert (paper.residual, paper.con_layers, paper.lambda_con) == ("detached", (2, 3), 0.1)
    mixed = read(rqvae_preset="released", con_layers=[1], lambda_con=0)
    assert (mixed.con_layers, mixed.lambda_con, mixed.residual) == ((1,), 0.0, "straight_through")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_contain_known_options_with_source_and_reason(name):
    settings = read(rqvae_preset=name)
    for option, preset in PRESETS[name].items():
        expected = tuple(range(4)[preset.value]) if isinstance(preset.value, slice) else preset.value
        assert getattr(settings, option) == expected
        assert preset.source in ("paper", "released", "ours") and preset.why


def test_identity_depends_only_on_settings_that_change_ids():
    assert read().identity() == read(semantic_ids="learn", rqvae_preset="default").identity()
    for change in ({"lambda_con": 0.2}, {"collision": "keep"}, {"semantic_id_seed": 1}, {"rqvae_preset": "released"}):
        assert read().identity() != read(**change).identity()


def test_numbers_that_yaml_reads_as_strings():
    assert read(rqvae_learning_rate="1e-3").rqvae_learning_rate == 1e-3


@pytest.mark.parametrize("option, value, expected", [
    ("quantizer", "rqvea", "Did you mean 'rqvae'"),
    ("collision", "none", "reassign, extra_token"),
    ("residual", "ste", "straight_through"),
    ("rqvae_preset", "papr", "Did you mean 'paper'"),
    ("codebook_size", 0, ">= 2"),
    ("codebook_size", "256", "whole number"),
    ("codebook_levels", 2.5, "whole number"),
    ("codebook_levels", True, "whole number"),
    ("rqvae_hidden_sizes", [64, 0], "a list of whole numbers from 1 to 65536"),
    ("rqvae_hidden_sizes", 64, "a list of whole numbers from 1 to 65536"),
    ("con_layers", [2, 4], "from 0 to 3"),
    ("con_layers", [-1], "a list of whole numbers from 0 to 25"),
    ("lambda_con", -0.1, ">= 0"),
    ("lambda_con", "much", ">= 0"),
    ("contrast_temperature", 0, "> 0"),
    ("rqvae_learning_rate", float("nan"), "> 0"),
    ("standardize", "yes", "True or False"),
    ("restart_dead_codes", 1, "True or False"),
    ("semantic_id_seed", -1, "from 0 to 4294967295"),
])
def test_error_names_invalid_and_expected_values(option, value, expected):
    with pytest.raises(UserError) as error:
        read(**{option: value})
    assert option in str(error.value) and expected in str(error.value)
    assert str(value) in str(error.value)


def test_con_layers_are_not_checked_without_contrastive_loss():
    assert read(quantizer="rqvae", codebook_levels=2).codebook_levels == 2


@pytest.mark.parametrize("quantizer", ["cid", "hierarchical_kmeans"])
def test_sinkhorn_without_codewords_is_refused_before_any_training(quantizer):
    with pytest.raises(UserError, match=f"needs codewords, but quantizer is {quantizer}, which has none; set collision to"):
        read(quantizer=quantizer, collision="sinkhorn")
    assert read(quantizer="rq_kmeans", collision="sinkhorn").collision == "sinkhorn"


def test_an_encoder_cannot_read_a_graph_that_the_quantizer_does_not_learn():
    with pytest.raises(UserError, match="quantizer is cid, which learns no graph, but encoder_input is graph"):
        read(quantizer="cid", encoder_input="graph")
    assert read(quantizer="cid", encoder_input="learnt").quantizer == "cid"


def test_a_graph_for_the_encoder_alone_is_not_trained_jointly():
    options = {"quantizer": "rqvae", "representation": "concatenated", "encoder_input": "graph"}
    with pytest.raises(UserError, match="graph_training is joint, .* but representation is concatenated; set"):
        read(**options, graph_training="joint")
    assert read(**options, graph_training="staged").uses_graph
    assert not read(**{**options, "encoder_input": "learnt"}, graph_training="joint").uses_graph


def test_tokenizations_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="tokenizations is 5, but IDs of quantizer cid can have another length with each seed"):
        read(quantizer="cid", tokenizations=5)
    assert read(quantizer="cid", tokenizations=5, semantic_ids="published").tokenizations == 5


@pytest.mark.parametrize("modalities", [(), ("text", "text")])
def test_modalities_must_be_distinct_names(modalities):
    with pytest.raises(UserError, match="modalities"):
        read(modalities)


@pytest.mark.parametrize(
    "levels, paper, released", [(1, (0,), (0,)), (2, (0, 1), (0, 1)), (3, (1, 2), (0, 1, 2)), (4, (2, 3), (0, 1, 2, 3))]
)
def test_presets_are_valid_for_any_number_of_levels(levels, paper, released):
    assert read(rqvae_preset="paper", codebook_levels=levels).con_layers == paper
    assert read(codebook_levels=levels).con_layers == (0,)
    assert read(rqvae_preset="released", codebook_levels=levels).con_layers == released
    assert read(rqvae_preset="default", codebook_levels=levels).con_layers == (0,)
    with pytest.raises(UserError, match="codebook_levels"):
        read(codebook_levels=levels, con_layers=[levels])
