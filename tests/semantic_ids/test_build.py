"""From features to IDs and the bundle on disk: learning, reproducibility, reuse, damaged files and invalid input."""
import json
import mmap
from dataclasses import replace

import numpy as np
import psutil
import pytest
from small_ids import FEATURES, ITEMS, QUIET, SMALL, TOKENS, build, learn

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import (
    FeatureRows,
    SemanticIDSettings,
    build as build_module,
    build_semantic_ids,
    rows,
    statistics,
)
from recbole_macrec.semantic_ids.bundle import MANIFEST, bundle_inputs, bundle_name, read_weights
from recbole_macrec.semantic_ids.quantizers import kmeans
from recbole_macrec.semantic_ids.quantizers.health import health_warning
from recbole_macrec.semantic_ids.quantizers.letter import COLLABORATIVE
from recbole_macrec.semantic_ids.quantizers.residual_quantizer import ResidualQuantizer
from recbole_macrec.semantic_ids.quantizers.rqvae_training import RQVAETraining, duration
from recbole_macrec.utils import device_budget


def bundle_of(folder):
    path, = (p for p in folder.iterdir() if p.is_dir())
    return path


def test_the_name_of_a_bundle_has_not_changed():
    """Existing bundles and checkpoints are found by it."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    settings = SemanticIDSettings(("text",), quantizer="rqvae", codebook_size=4)
    assert bundle_name(bundle_inputs({"text": x}, list("abcdef"), settings)) == "semantic_ids-e778ed89cfc61dd8"


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rqvae", "rq_kmeans"])
def test_every_quantizer_gives_unique_informative_ids(tmp_path, quantizer):
    ids = build(tmp_path, SMALL.replace(quantizer=quantizer, rqvae_epochs=15, rqvae_warmup_epochs=15,
                                  rqvae_learning_rate=1e-2, lambda_con=0.02))
    assert ids.modalities == ("text", "image") and ids.item_tokens == tuple(TOKENS)
    for modality in ids.modalities:
        assert ids.codes[modality].shape == (ITEMS, 3) and ids.sizes[modality] == (12, 12, 12)
        assert len(np.unique(ids.codes[modality], axis=0)) == ITEMS
        assert 0 <= ids.codes[modality].min() and ids.codes[modality].max() < 12
        statistics = ids.statistics[modality]
        assert statistics["collision_rate_after"] == 0
        assert statistics["reconstruction_error"] < 0.5
        other = "image" if modality == "text" else "text"
        assert statistics["predictability"][modality] > 0.5 > statistics["predictability"][other]


def test_three_modalities_learn_together(tmp_path):
    settings = SMALL.replace(modalities=("text", "image", "sound"))
    ids = build(tmp_path, settings)
    assert ids.modalities == ("text", "image", "sound")
    assert all(set(s["predictability"]) == {"text", "image", "sound"} for s in ids.statistics.values())


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rqvae", "rq_kmeans"])
def test_codes_are_reproducible_and_depend_on_the_seed(tmp_path, quantizer):
    settings = SMALL.replace(quantizer=quantizer)
    first, second = build(tmp_path / "1", settings), build(tmp_path / "2", settings)
    other = build(tmp_path / "3", settings.replace(semantic_id_seed=1))
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rq_kmeans", "hierarchical_kmeans"])
def test_the_largest_seed_is_valid_although_levels_add_to_it(tmp_path, quantizer):
    ids = build(tmp_path, SMALL.replace(quantizer=quantizer, semantic_id_seed=2**32 - 1))
    assert all(len(np.unique(codes, axis=0)) == ITEMS for codes in ids.codes.values())


def test_rqvae_of_one_modality_does_not_depend_on_the_others():
    settings = SMALL.replace(quantizer="rqvae")
    alone = learn({"text": FEATURES["text"]}, settings.replace(modalities=("text",)))
    beside = learn({m: FEATURES[m] for m in ("image", "text")}, settings)
    assert np.array_equal(alone.modalities["text"].codes, beside.modalities["text"].codes)


def test_training_lowers_the_loss_and_records_codebook_statistics():
    learnt = learn({m: FEATURES[m] for m in ("text", "image")}, SMALL.replace(rqvae_epochs=20))
    warmup = [e for e in learnt.history if e["phase"] == "warmup"]
    train = [e for e in learnt.history if e["phase"] == "train"]
    assert len(warmup) == 3 and len(train) == 20
    assert warmup[-1]["recon"] < warmup[0]["recon"] and train[-1]["recon"] < train[0]["recon"]
    assert set(train[-1]["health"]) == {"text", "image"}
    assert len(train[-1]["health"]["text"]["usage"]) == 3
    assert json.loads(json.dumps(learnt.history)) == learnt.history


def test_codes_epoch_takes_the_epoch_with_fewest_collisions():
    settings = SMALL.replace(codes_epoch="lowest_collision", rqvae_epochs=8)
    learnt = learn({m: FEATURES[m] for m in ("text", "image")}, settings)
    for modality, part in learnt.modalities.items():
        rates = [e["health"][modality]["collision_rate"] for e in learnt.history if "health" in e]
        assert len(np.unique(part.codes, axis=0)) == round(ITEMS * (1 - min(rates)))


def test_restarts_repair_a_collapsed_codebook(monkeypatch, caplog):
    """All codewords but one are far from every item. Without restarts they have no gradient and stay unused."""
    def collapsed(quantizer, z, seed):
        quantizer.codebooks.data.fill_(100.0)
        quantizer.codebooks.data[:, 0] = z.mean(0)
        quantizer.codebooks.data[1:, 0] = 0

    monkeypatch.setattr(ResidualQuantizer, "initialise", collapsed)
    usage = {}
    for restart in (False, True):
        caplog.clear()
        settings = SMALL.replace(modalities=("text",), quantizer="rqvae", restart_dead_codes=restart)
        learnt = learn({"text": FEATURES["text"]}, settings)
        usage[restart] = learnt.history[-1]["health"]["text"]["usage"]
        assert restart or ("Set restart_dead_codes to True" in caplog.text and "'text'" in caplog.text)
    assert usage[False] == [1, 1, 1]
    assert min(usage[True]) >= 6


@pytest.mark.parametrize("changed, advice", [
    ({"standardize": False}, "standardize"),
    ({"restart_dead_codes": False}, "restart_dead_codes"),
    ({"rqvae_warmup_epochs": 0}, "rqvae_warmup_epochs"),
    ({}, "lambda_con"),
    ({"quantizer": "rqvae"}, "codebook_size"),
])
def test_collapse_warning_names_codebook_and_option(changed, advice):
    settings = SMALL.replace(**changed)
    fine = {"usage": [12, 12, 9], "perplexity": [9.0, 9.0, 6.0], "collision_rate": 0.1}
    assert health_warning("text", fine, ITEMS, settings) is None
    message = health_warning("text", fine | {"usage": [12, 3, 9]}, ITEMS, settings)
    assert "Codebook 1 of modality 'text'" in message and "3 of 12 codes" in message and advice in message
    assert "Codebook 2" in health_warning("text", fine | {"perplexity": [9.0, 9.0, 1.1]}, ITEMS, settings)


def test_bundle_is_reused(tmp_path, monkeypatch):
    built = build(tmp_path)
    monkeypatch.setattr(build_module, "represent_and_learn", None)  # learning again would fail
    again = build(tmp_path)
    assert again.fingerprint() == built.fingerprint() and again.statistics == built.statistics
    for modality in built.modalities:
        assert np.array_equal(again.raw_codes[modality], built.raw_codes[modality])
    features = {m: x.astype(np.float64) for m, x in FEATURES.items()}
    assert build(tmp_path, features=features).fingerprint() == built.fingerprint()


def test_bundle_contains_settings_and_weights(tmp_path):
    ids = build(tmp_path)
    path = bundle_of(tmp_path)
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["settings"]["codebook_size"] == 12 and manifest["statistics"] == ids.statistics
    assert len(manifest["history"]) == 9 and "torch" in manifest["versions"]
    weights = read_weights(path)
    assert weights["text/quantizer.codebooks"].shape == (3, 12, 6) and weights["image/mean"].shape == (8,)
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f"{path.name}.lock"}


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rq_kmeans"])
def test_features_too_large_for_memory_are_streamed_to_the_same_ids(quantizer, tmp_path, monkeypatch):
    settings = SMALL.replace(quantizer=quantizer)
    expected = build(tmp_path / "whole", settings)
    order = np.random.default_rng(0).permutation(ITEMS)  # the file is in another order than the items
    mapped = {}
    for modality in SMALL.modalities:
        np.save(tmp_path / f"{modality}.npy", FEATURES[modality][order])
        mapped[modality] = FeatureRows(np.load(tmp_path / f"{modality}.npy", mmap_mode="r"), np.argsort(order))
    monkeypatch.setattr(rows, "free_memory", lambda device: 0)
    read = [len(block) for block in rows.blocks(mapped["text"])]
    streamed = build(tmp_path / "streamed", settings, mapped)
    assert read == [ITEMS] and streamed.fingerprint() == expected.fingerprint()
    monkeypatch.setattr("recbole_macrec.utils.blocks.BLOCK", 50)
    assert [len(block) for block in rows.blocks(mapped["text"])] == [50, 50, 50, 10]
    in_blocks = build(tmp_path / "blocks", settings, mapped)
    same = [np.mean((in_blocks.codes[m] == expected.codes[m]).all(1)) for m in SMALL.modalities]
    assert min(same) > 0.9  # means and deviations are summed in another order


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rqvae", "rq_kmeans", "hierarchical_kmeans"])
def test_every_step_works_in_blocks_of_items(quantizer, tmp_path, monkeypatch):
    """No step up to the finished IDs reads or quantizes more rows at once than a block, a batch or the sample."""
    largest = 64  # rqvae_batch_size; a block and the sample have fewer rows
    monkeypatch.setattr("recbole_macrec.utils.blocks.BLOCK", 50)
    for module in (rows, statistics):
        monkeypatch.setattr(module, "SAMPLE_SIZE", 60)
    monkeypatch.setattr(kmeans, "MINI_BATCH_FROM", 60)
    monkeypatch.setattr(rows, "free_memory", lambda device: 0)
    read, forward, used = FeatureRows.__getitem__, ResidualQuantizer.forward, []

    def watched_read(self, index):
        found = read(self, index)
        used.append(len(found))
        return found

    def watched_forward(self, z):
        used.append(len(z))
        return forward(self, z)

    monkeypatch.setattr(FeatureRows, "__getitem__", watched_read)
    monkeypatch.setattr(ResidualQuantizer, "forward", watched_forward)
    monkeypatch.setattr(device_budget, "CPU", replace(device_budget.CPU, encoded_items=50))
    representation = "modality" if quantizer == "cross_modal_rqvae" else "concatenated"
    collision = "reassign" if quantizer == "hierarchical_kmeans" else "sinkhorn"
    features = {**FEATURES, "text": FEATURES["text"] * np.float32(1e30)}  # pseudo-labels of such are of scaled features
    build(tmp_path, SMALL.replace(quantizer=quantizer, representation=representation, collision=collision), features)
    assert 50 in used and max(used) <= largest


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no advice about memory maps here")
def test_memory_mapped_files_do_not_stay_in_memory(tmp_path):
    """After a whole feature file was read, little of it is in the memory of the process."""
    np.save(tmp_path / "large.npy", np.ones((2**16, 256), np.float32))  # 64 MiB
    mapped = np.load(tmp_path / "large.npy", mmap_mode="r")
    process, grown = psutil.Process(), {}
    for name, x in {"file": mapped, "items": FeatureRows(mapped, np.arange(len(mapped))[::-1])}.items():
        before = process.memory_info().rss
        assert sum(float(block.sum()) for block in rows.blocks(x)) == mapped.size
        grown[name] = process.memory_info().rss - before
    assert max(grown.values()) < 2**24


def test_expected_training_time_is_logged(caplog):
    caplog.set_level("INFO")
    learn({m: FEATURES[m] for m in ("text", "image")}, SMALL)
    messages = [record.getMessage() for record in caplog.records if "3 + 6 epochs over 160 items" in record.getMessage()]
    assert len(messages) == 2 and all(message.startswith("Semantic IDs (text, image): about ") for message in messages)
    caplog.clear()
    settings = SMALL.replace(modalities=("text",), quantizer="rqvae")
    RQVAETraining({"text": FEATURES["text"]}, settings, "cpu")._log_expected_time(8000)
    assert "about 2 h 13 min" in caplog.text and "rq_kmeans or a GPU" in caplog.text
    assert [duration(seconds) for seconds in (0.25, 59, 75)] == ["0.2 s", "59 s", "1 min 15 s"]


def test_very_large_catalogues_train_on_a_sample(monkeypatch):
    monkeypatch.setattr(rows, "SAMPLE_SIZE", 60)
    drawn = rows.sample_rows(FEATURES["text"], seed=0)
    assert len(drawn) == 60 and len(np.unique(drawn, axis=0)) == 60
    assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in FEATURES["text"]}
    assert len(rows.sample_rows(FEATURES["text"][:50], seed=0)) == 50


def test_bundle_name_depends_on_features_settings_and_seed():
    def name_of(*arguments):
        return bundle_name(bundle_inputs(*arguments))

    used = {m: FEATURES[m] for m in SMALL.modalities}
    name = name_of(used, TOKENS, SMALL)
    touched = {m: x.copy() for m, x in used.items()}
    touched["image"][5, 3] += 1e-3
    others = [name_of(touched, TOKENS, SMALL), name_of(used, TOKENS[::-1], SMALL),
              name_of(used, TOKENS, SMALL.replace(semantic_id_seed=1)),
              name_of(used, TOKENS, SMALL.replace(collision="keep"))]
    assert len({name, *others}) == 5
    assert name == name_of({m: x.copy() for m, x in used.items()}, list(TOKENS), SMALL.replace())


@pytest.mark.parametrize("quantizer, collision", [("cross_modal_rqvae", "reassign"), ("rq_kmeans", "extra_token"),
                                                  ("hierarchical_kmeans", "random")])
def test_codes_do_not_depend_on_the_order_of_items(tmp_path, monkeypatch, quantizer, collision):
    settings = SMALL.replace(quantizer=quantizer, collision=collision)
    built, order = build(tmp_path, settings), np.random.default_rng(0).permutation(ITEMS)
    tokens = [TOKENS[i] for i in order]
    features = {m: x[order] for m, x in FEATURES.items()}
    elsewhere = build(tmp_path / "anew", settings, features, tokens)  # learnt from rows in the other order
    monkeypatch.setattr(build_module, "represent_and_learn", None)  # and from here on nothing may be learnt
    for ids in (elsewhere, build(tmp_path, settings, features, tokens)):
        assert ids.item_tokens == tuple(tokens) and ids.fingerprint() == built.fingerprint()
        assert all(np.array_equal(ids.codes[m], built.codes[m][order]) for m in built.modalities)
        assert all(np.array_equal(ids.raw_codes[m], built.raw_codes[m][order]) for m in built.modalities)


@pytest.mark.parametrize("change, reported", [
    ("features", "features of 'image'"), ("tokens", r"1 item \('new'\) new, 1 item \('i0'\) gone"), ("settings", "options"),
    (None, None),
])
def test_ids_unlike_those_of_the_checkpoint_are_rejected_before_learning(tmp_path, monkeypatch, change, reported):
    settings, features, tokens = SMALL.replace(quantizer="rq_kmeans"), dict(FEATURES), list(TOKENS)
    expected = build(tmp_path, settings).bundle.name
    if change == "features":
        features["image"] = features["image"] + 1
    elif change == "tokens":
        tokens[0] = "new"
    elif change == "settings":
        settings = settings.replace(codebook_size=11)
    monkeypatch.setattr(build_module, "represent_and_learn", None)

    def again():
        return build_semantic_ids(features, tokens, settings, tmp_path, QUIET, expected=expected)

    if change is None:
        assert again().bundle.name == expected
        return
    with pytest.raises(UserError, match=f"semantic IDs {expected}.*changed since: {reported}\\)"):
        again()


@pytest.mark.parametrize("name", ["manifest.json", "items.json", "codes.safetensors", "quantizer.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "changed"])
def test_damaged_bundles_are_errors_that_name_the_folder(tmp_path, name, damage):
    build(tmp_path, SMALL.replace(quantizer="rq_kmeans"))
    file = bundle_of(tmp_path) / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:  # the last digit of the fingerprint, or the last byte of data
        file.write_bytes(content.replace(b'"fingerprint": "', b'"fingerprint": "0') if name == "manifest.json"
                         else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError) as error:
        build(tmp_path, SMALL.replace(quantizer="rq_kmeans"))
    assert str(file.parent) in str(error.value) and "delete this folder" in str(error.value)


def test_a_killed_build_leaves_no_bundle(tmp_path, monkeypatch):
    settings = SMALL.replace(quantizer="rq_kmeans")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recbole_macrec.semantic_ids.bundle.os.rename", killed)
        # a killed process clears nothing
        patch.setattr("recbole_macrec.semantic_ids.bundle.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, settings)
    left, = (p for p in tmp_path.iterdir() if p.is_dir())
    assert left.name.startswith(".") and (left / MANIFEST).exists()
    ids = build(tmp_path, settings)
    assert not left.exists() and bundle_of(tmp_path).name.startswith("semantic_ids-")
    assert len(ids.item_tokens) == ITEMS


def with_rows(modality, rows, value):
    x = FEATURES[modality].copy()
    x[rows, 2] = value
    return {**FEATURES, modality: x}


@pytest.mark.parametrize("features, settings, tokens, parts", [
    (with_rows("image", [3, 8], np.nan), SMALL, TOKENS, ["'image'", "2 of 160", "i3", "i8"]),
    (with_rows("text", [4], -np.inf), SMALL, TOKENS, ["'text'", "i4"]),
    ({**FEATURES, "text": FEATURES["text"].astype(np.float64) * 1e300}, SMALL, TOKENS, ["'text'", "infinite"]),
    ({**FEATURES, "text": FEATURES["text"][:-1]}, SMALL, TOKENS, ["'text'", "159 rows", "160 items"]),
    ({**FEATURES, "text": FEATURES["text"][0]}, SMALL, TOKENS, ["'text'", "(10,)"]),
    ({"text": FEATURES["text"]}, SMALL, TOKENS, ["'image'", "['text']"]),
    (FEATURES, SMALL.replace(codebook_size=161), TOKENS, ["codebook_size = 161", "160 items"]),
    (FEATURES, SMALL.replace(pseudo_labels=512), TOKENS, ["pseudo_labels = 512", "160 items"]),
    (FEATURES, SMALL.replace(modalities=("text",)), TOKENS, ["quantizer = cross_modal_rqvae", "two modalities"]),
    (FEATURES, SMALL.replace(codebook_levels=1, con_layers=(0,)), TOKENS, ["codebook_size", "extra_token"]),
    (FEATURES, SMALL, ["i0", *TOKENS[:-1]], ["'i0' is listed twice"]),
    ({m: x[:0] for m, x in FEATURES.items()}, SMALL, [], ["no items"]),
])
def test_invalid_input_is_a_user_error_before_learning(tmp_path, monkeypatch, features, settings, tokens, parts):
    monkeypatch.setattr(build_module, "represent_and_learn", lambda *args: pytest.fail("learns codes"))
    with pytest.raises(UserError) as error:
        build(tmp_path, settings, features, tokens)
    for part in parts:
        assert part in str(error.value)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_constant_and_equal_features_give_unique_ids(tmp_path):
    features = {"text": np.ones((ITEMS, 4)), "image": np.repeat(FEATURES["image"][:8], ITEMS // 8, axis=0)}
    ids = build(tmp_path, features=features)
    assert ids.statistics["text"]["collision_rate"] > 0.9
    for modality in ids.modalities:
        assert len(np.unique(ids.codes[modality], axis=0)) == ITEMS


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rqvae", "letter"])
@pytest.mark.parametrize("rate, warmup, epochs, message", [
    (1e30, 5, 6, "is (inf|nan) in epoch .*"),
    (1e30, 1, 6, "became infinite in epoch 1 .*"),
    (1e30, 0, 1, "became infinite in epoch 0 .*"),
    (1e9, 0, 2, "(became infinite|is (inf|nan)) in epoch .*"),
    (1e7, 0, 1, "error of the quantizer is (inf|nan) in epoch 0 .*"),
])  # fmt: skip
def test_a_diverging_quantizer_names_the_epoch_and_the_option(quantizer, rate, warmup, epochs, message):
    """The loss of the first step is finite, so a phase of one batch ends without an infinite loss."""
    settings = SMALL.replace(
        quantizer=quantizer, rqvae_learning_rate=rate, rqvae_warmup_epochs=warmup, rqvae_epochs=epochs, rqvae_batch_size=ITEMS
    )
    features = {m: FEATURES[m] for m in ("text", "image")}
    if quantizer == "letter":
        features[COLLABORATIVE] = FEATURES["sound"]
    with pytest.raises(UserError, match=f"{message}rqvae_learning_rate = 1"):
        learn(features, settings)


@pytest.mark.parametrize("quantizer", ["cross_modal_rqvae", "rqvae", "rq_kmeans", "hierarchical_kmeans"])
def test_features_of_any_scale_are_used_or_rejected(quantizer):
    """Features times 1e30 give nearly the same IDs if they are standardised; otherwise their squares overflow float32."""
    settings = SMALL.replace(quantizer=quantizer, semantic_ids="learn")
    large = {m: FEATURES[m] * np.float32(1e30) for m in ("text", "image")}
    codes = learn(large, settings).modalities["text"].codes
    assert len(np.unique(codes, axis=0)) > ITEMS / 4
    with pytest.raises(UserError, match="standardize is False"):
        learn(large, settings.replace(standardize=False))
    opposite = {m: np.sign(FEATURES[m]) * np.finfo(np.float32).max for m in large}
    with pytest.raises(UserError, match="differs by .* from the mean of its column"):
        learn(opposite, settings)


def test_option_sinkhorn_epsilon_changes_codes_and_bundle_name():
    settings = SMALL.replace(modalities=("text",), quantizer="rqvae")
    balanced = settings.replace(sinkhorn_epsilon=0.05)
    assert "sinkhorn_epsilon" not in settings.identity() and balanced.identity()["sinkhorn_epsilon"] == 0.05
    assert settings.trains_in_processes and not balanced.trains_in_processes
    features = {"text": FEATURES["text"]}
    plain, first, again = (learn(features, s).modalities["text"].codes for s in (settings, balanced, balanced))
    assert np.array_equal(first, again) and not np.array_equal(first, plain)
