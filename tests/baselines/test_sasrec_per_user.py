"""SASRecPerUser: its loss equals that of single targets, rankings agree with predictions, and runs behave like those of other
models."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from helpers import as_words
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from small_models import batch_of, data_path, prepare as prepared, train_until  # noqa: F401  data_path is a fixture

from recbole_macrec import SASRecPerUser
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDSettings

NAME = "SASRecPerUser"
SMALL = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "decoder_layers": 2, "train_batch_size": 8, "epochs": 20,
         "learning_rate": 0.01, "eval_step": 10, "precision": "fp32"}
WORDS = as_words(SMALL)


def prepare(path, **options):
    """Config, model, trainer and data loaders of a small model on the tiny dataset."""
    return prepared(NAME, path, **{**SMALL, **options})


@pytest.mark.parametrize("features", ["none", "codes"])
def test_per_user_loss_equals_the_loss_of_single_targets(features, data_path):
    """Also for histories cut into windows, and for a batch that is split into parts."""
    _, model, trainer, loaders = prepare(
        data_path, item_features=features, dropout_prob=0.0, MAX_ITEM_LIST_LENGTH=4, pass_tokens=40
    )
    windows = trainer.training_loader(loaders[0])
    assert max(window.first for window in windows.windows) > 1 and len(windows.windows) < len(loaders[0]._dataset) / 2
    batch = windows.collate_fn(range(len(windows.windows)))
    assert len(model.loss_parts(batch)) > 3
    expected = []
    for window in windows.windows:
        for place in range(window.first, len(window.items)):
            history = Interaction(
                {"item_id_list": torch.from_numpy(window.items[None, :place]), "item_length": torch.tensor([place])}
            )
            scores = model.full_sort_predict(history)[:, 1:]
            expected.append(F.cross_entropy(scores, torch.tensor([window.items[place] - 1])))
    assert len(expected) == len(loaders[0]._dataset)
    torch.testing.assert_close(model.calculate_loss(batch), torch.stack(expected).mean(), atol=1e-5, rtol=0)


def test_losses_do_not_depend_on_later_items(data_path):
    _, model, _, _ = prepare(data_path, dropout_prob=0.0)
    items, vectors = torch.tensor([3, 9, 4, 7, 5, 8]), model.item_vectors()

    def losses(items):
        hidden, _ = model.states(items[None], torch.tensor([5]), vectors)
        return F.cross_entropy(F.linear(hidden, vectors[1:]), items[1:] - 1, reduction="none").detach()

    before, after = losses(items), losses(torch.where(items == 7, 20, items))
    assert torch.equal(before[:2], after[:2]) and (before[2:] != after[2:]).all()


@pytest.mark.parametrize("features", ["none", "codes"])
def test_full_sort_predict_equals_predict_for_every_item(features, data_path):
    _, model, trainer, loaders = prepare(data_path, item_features=features)
    trainer.train_steps(trainer.training_loader(loaders[0]))
    model.eval()
    users = batch_of(loaders[2])
    scores = model.full_sort_predict(users)
    for item in range(scores.shape[1]):
        users.update(Interaction({"item_id": torch.full((len(users),), item)}))
        torch.testing.assert_close(model.predict(users), scores[:, item], atol=1e-5, rtol=1e-5)
    assert (scores[:, 0] == -torch.inf).all() and scores[:, 1:].isfinite().all()
    for i in range(0, len(users), 7):
        torch.testing.assert_close(model.full_sort_predict(users[[i]])[0], scores[i], atol=1e-5, rtol=1e-5)


def test_embeddings_of_codes_are_added_to_items(tmp_path):
    """In input and output, for all modalities of the dataset. With ``item_features: none`` no semantic IDs are learnt."""
    options = {**SMALL, "data_path": str(tmp_path), "quantizer": "rq_kmeans", "show_progress": False}
    models = {}
    for features in ("none", "codes"):
        config = Config(NAME, "arts-toy", config_dict={**options, "item_features": features})
        loaders = data_preparation(config, create_dataset(config))
        models[features] = SASRecPerUser(config, loaders[0]._dataset).eval()
        assert (tmp_path / "arts-toy" / "semantic_ids").exists() == (features == "codes")
    plain, model, users = models["none"], models["codes"], batch_of(loaders[2])
    assert list(model.semantic_ids.modalities) == ["text", "image"]
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "codes.weight"})
    assert not torch.allclose(plain.full_sort_predict(users)[:, 1:], model.full_sort_predict(users)[:, 1:], atol=1e-3)
    expected, first = model.items.weight[1:].clone(), 0
    for m in model.semantic_ids.modalities:
        for level, size in enumerate(model.semantic_ids.sizes[m]):
            expected += model.codes.weight[first + model.semantic_ids.codes[m][:, level]]
            first += size
    assert first == len(model.codes.weight)
    torch.testing.assert_close(model.item_vectors()[1:], expected, atol=1e-6, rtol=0)
    with torch.no_grad():
        plain.items.weight.copy_(model.item_vectors())
    torch.testing.assert_close(plain.full_sort_predict(users), model.full_sort_predict(users), atol=1e-5, rtol=1e-5)


def test_codes_equal_those_of_macrec():
    modalities = ["text", "image"]
    ours, macrec = (SemanticIDSettings.from_config(Config(name, "Arts"), modalities) for name in (NAME, "MACRec"))
    assert ours.identity() == macrec.identity()


def test_runs_without_semantic_ids_and_ranks_better_than_pop(tiny_dataset):
    results = {}
    for model, words in ((NAME, WORDS), ("Pop", [])):
        argv = [
            f"--model={model}",
            f"--dataset={TINY}",
            f"--data_path={tiny_dataset}",
            "--show_progress=False",
            "--state=ERROR",
        ]
        assert main([*argv, *words, f"--result_file={model}.json"]) == 0
        results[model] = json.loads(Path(f"{model}.json").read_text())
    assert results[NAME]["test_result"]["ndcg@10"] > results["Pop"]["test_result"]["ndcg@10"] + 0.1
    assert results[NAME]["test_detail"] == {} and results[NAME]["semantic_ids"] == {}
    assert not (tiny_dataset / TINY / "semantic_ids").exists()


def test_resumed_training_equals_uninterrupted_training(data_path):
    _, whole, trainer, (train, valid, test) = prepare(data_path)
    expected = trainer.fit(train, valid)
    final = {key: value.clone() for key, value in whole.state_dict().items()}
    losses = list(trainer.train_loss_dict.values())
    assert losses[-1] < 0.85 * losses[0]
    _, _, left, (train, valid, _) = prepare(data_path)
    train_until(left, 11.5, train, valid)
    _, model, resumed, (train, valid, _) = prepare(data_path, resume=left.newest_model_file)
    assert resumed.fit(train, valid) == expected
    for key, value in final.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)
    assert resumed.evaluate(test) == trainer.evaluate(test)


def test_norms_have_no_weight_decay(data_path):
    _, model, trainer, _ = prepare(data_path)
    decayed, exempt = ({id(p) for p in group["params"]} for group in trainer.optimizer.param_groups)
    assert id(model.items.weight) in decayed and id(model.norm.weight) in exempt and len(exempt) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_results_do_not_depend_on_the_number_of_cores(precision, data_path):
    seen = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        _, model, trainer, loaders = prepare(data_path, pass_tokens=10, precision=precision, eval_precision=precision)
        windows = trainer.training_loader(loaders[0])
        model.train()
        torch.manual_seed(1)
        loss = trainer._backward(windows.collate_fn(range(8)))
        gradients = [p.grad for p in model.parameters()]
        seen.append([loss, *gradients, model.eval().full_sort_predict(batch_of(loaders[2]))])
    assert all(torch.equal(a, b) for a, b in zip(*seen))


@pytest.mark.parametrize("change, named", [
    ({"item_features": "codes"}, "semantic IDs"),
    ({"d_ff": 128}, "does not fit"),
])
def test_checkpoint_of_another_model_is_rejected(change, named, data_path):
    _, _, trainer, (train, valid, _) = prepare(data_path, epochs=1, eval_step=1)
    trainer.fit(train, valid)
    _, _, other, _ = prepare(data_path, **change)
    with pytest.raises(UserError, match=named):
        other.resume_checkpoint(trainer.saved_model_file)


def test_checkpoint_of_items_in_another_order_is_rejected(data_path):
    """Embeddings are stored by RecBole's item numbers, which depend on the order of rows in the files."""
    _, _, trainer, (train, valid, _) = prepare(data_path, epochs=1, eval_step=1)
    trainer.fit(train, valid)
    file = data_path / TINY / f"{TINY}.inter"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *np.random.default_rng(0).permutation(rows)]) + "\n")
    _, _, other, _ = prepare(data_path)
    with pytest.raises(UserError, match="in another order"):
        other.resume_checkpoint(trainer.saved_model_file)


@pytest.mark.parametrize("option, value, expected", [
    ("item_features", "code", "none or codes.*Did you mean 'codes'"),
    ("dropout_prob", 1, "from 0 to 0.99"),
    ("d_model", 0, "a whole number from 1 to 65536"),
    ("d_kv", 7, "even"),
    ("training", "per_target", "per_user"),
    ("scheduler", "step", "cosine, linear or constant"),
    ("precision", "fp8", "auto, fp32, tf32 or bf16"),
])
def test_invalid_options_are_user_errors(option, value, expected, tmp_path):
    with pytest.raises(UserError, match=f"^{option} is {value!r}.*{expected}"):
        Config(NAME, "no such dataset", config_dict={"data_path": str(tmp_path), option: value})
