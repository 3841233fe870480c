"""P5, VIP5 and LCRec: beam search against brute force, reproducible and resumable training, and no use of held-out
interactions."""
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import TINY
from helpers import as_words
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_topk
from small_models import ITEMS, batch_of, data_path, prepare as prepared, train_until  # noqa: F401  data_path is a fixture

from recbole_macrec import Recommender
from recbole_macrec.baselines.text_to_text import vip5
from recbole_macrec.baselines.text_to_text.item_index import cluster_index, digit_index, random_digits
from recbole_macrec.baselines.text_to_text.lcrec import user_texts
from recbole_macrec.baselines.text_to_text.p5 import P5
from recbole_macrec.baselines.text_to_text.recommender import TextToTextRecommender
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.speed.text_reference import TextReference
from recbole_macrec.config.registry import models
from recbole_macrec.config.schema.text_to_text import LCREC_TASKS
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids import SemanticIDs

NAMES = [name for name, model in models().items() if issubclass(model, TextToTextRecommender)]
T5 = [name for name in NAMES if issubclass(models()[name], P5)]
QUICK = {
    "item_index": "codes",
    "quantizer": "rq_kmeans",
    "collision": "reassign",
    "text_fields": ["title"],
    "epochs": 2,
    "precision": "fp32",
}
CID = {"item_index": "cid", "quantizer": "cid", "cid_clusters": 3, "cid_leaf_size": 6}
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install peft")


def test_text_to_text_models_are_registered():
    assert set(NAMES) >= {"P5", "VIP5", "LCRec"} and set(T5) >= {"P5", "VIP5"}


def prepare(name, path, **options):
    """Config, model, trainer and data loaders of a tiny backbone on the tiny dataset."""
    return prepared(name, path, **{**QUICK, **options})


def rewrite_rows(path: Path, change) -> None:
    """Apply ``change`` to the lines below the header of the .inter file."""
    file = path / TINY / f"{TINY}.inter"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *change(lines)]) + "\n")


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def brute_force(model, users) -> torch.Tensor:
    """Mean log-probability of the tokens of every item's ID [B, N], computed by transformers for one item of one user at a
    time."""
    network, reference = model.backbone.merged().eval(), TextReference(model)
    scores = torch.zeros(len(users), model.n_items)
    for row in range(len(users)):
        inputs = (reference._causal_inputs if reference.causal else reference._encoder_inputs)(
            [model.ranking_prompt(*(column[0] for column in model._rows(users[[row]])))]
        )
        read = "input_ids" if reference.causal else "decoder_input_ids"
        for item in range(1, model.n_items):
            response = torch.tensor([model.item_ids[item]])
            sequence = torch.cat([inputs[read], response], dim=1)
            mask = {"attention_mask": torch.ones_like(sequence)} if reference.causal else {}
            logits = network(**{**inputs, read: sequence, **mask}).logits[0, inputs[read].shape[1] - 1 : -1]
            scores[row, item] = logits.log_softmax(-1).gather(1, response.T).mean()
    return scores


@pytest.mark.parametrize(
    "name, options", [("P5", {}), ("P5", {"item_index": "random_digits"}), ("P5", CID), ("VIP5", {}), ("LCRec", {})]
)
def test_beams_and_scores_equal_brute_force(name, options, data_path):
    """With as many beams as items, beam search ranks all items by their exact scores."""
    _, model, trainer, (train, _, test) = prepare(name, data_path, **options)
    trainer.train_steps(train)
    model.eval()
    users = batch_of(test)[np.array([0, 5, 11])]
    expected = brute_force(model, users)[:, 1:]
    ranking = model.rank(users, beams=ITEMS)
    assert ranking.items.sort().values.tolist() == [list(range(1, ITEMS + 1))] * 3
    torch.testing.assert_close(expected.gather(1, ranking.items - 1), ranking.scores, atol=1e-5, rtol=0)
    items = torch.arange(1, ITEMS + 1).expand(3, -1)
    torch.testing.assert_close(model.item_scores(users, items), expected, atol=1e-5, rtol=0)
    users.update(Interaction({"item_id": torch.tensor([4, 1, 9])}))
    torch.testing.assert_close(model.predict(users), expected.gather(1, torch.tensor([[3], [0], [8]]))[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_beam_search_equals_generate_of_transformers(name, data_path):
    _, model, trainer, (train, _, test) = prepare(name, data_path, num_beams=10)
    trainer.train_steps(train)
    model.eval()
    users = batch_of(test)
    assert model.rank(users).items.tolist() == TextReference(model).rank(users, 10)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch(name, data_path):
    _, model, _, loaders = prepare(name, data_path)
    model.eval()
    users = batch_of(loaders[2])
    together = model.full_sort_predict(users)
    assert together.shape == (len(users), ITEMS + 1) and together.isfinite().all() and (together.argmin(1) == 0).all()
    for i in range(0, len(users), 9):
        alone = model.full_sort_predict(users[[i]])[0]
        assert torch.equal(alone.argsort(descending=True), together[i].argsort(descending=True))
    few = model.best_items(users, 5, model.restriction(np.array([2, 7, 8, 20])), excluded=torch.full((len(users), 1), 7))
    assert few.items[:, :3].sort(1).values.tolist() == [[2, 8, 20]] * len(users) and (few.items[:, 3:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_learns_the_next_item_and_loaded_equals_saved(name, data_path):
    """Nearly every item is followed by the item with the next number, so the last item predicts the target."""
    options = {"epochs": 30, "eval_step": 15, "train_batch_size": 32, "dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": 1}
    _, _, trainer, (train, valid, test) = prepare(name, data_path, **options)
    trainer.fit(train, valid)
    losses, result = list(trainer.train_loss_dict.values()), trainer.evaluate(test)
    assert losses[-1] < 0.5 * losses[0] and result["hit@5"] > 2 * 5 / ITEMS  # twice chance
    config, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert get_trainer(config["MODEL_TYPE"], name)(config, model).evaluate(test, load_best_model=False) == result


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_same_results(name, data_path):
    runs = []
    for _ in range(2):
        _, _, trainer, (train, valid, test) = prepare(name, data_path)
        trainer.fit(train, valid)
        runs.append((trainer.train_loss_dict, trainer.evaluate(test)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name, data_path):
    options = {"epochs": 3, "dropout_prob": 0.1}
    _, whole, trainer, (train, valid, _) = prepare(name, data_path, **options)
    expected = trainer.fit(train, valid)
    final = weights_of(whole)
    _, _, left, (train, valid, _) = prepare(name, data_path, **options)
    train_until(left, 1.5, train, valid)
    _, model, resumed, (train, valid, _) = prepare(name, data_path, **options, resume=left.newest_model_file)
    assert resumed.fit(train, valid) == expected
    for key, value in final.items():
        torch.testing.assert_close(model.state_dict()[key], value, atol=0, rtol=0)


def test_an_epoch_of_a_backbone_that_knows_all_words_of_the_ids(data_path):
    """The tokenizer has the ten digits, so that no rows are added to the tables."""
    _, model, trainer, (train, valid, _) = prepare("P5", data_path, epochs=1, item_index="random_digits")
    assert not all(parameter.numel() for parameter in model.parameters())
    trainer.fit(train, valid)
    assert len(trainer.train_loss_dict) == 1


@pytest.mark.parametrize("name, options", [("P5", {"item_index": "random_digits"}), ("P5", CID), ("LCRec", {}),
                                           ("VIP5", {"vip5_tasks": ["next", "yes_no", "direct"]})])
def test_training_does_not_depend_on_held_out_interactions(name, options, data_path):
    """Each user's last two items are replaced, which also changes RecBole's item numbers."""
    learnt = []
    for replace in (False, True):
        if replace:
            def held_out_replaced(lines):
                last = {line.split("\t")[0]: i for i, line in enumerate(lines)}
                rows = {i - back for i in last.values() for back in (0, 1)}
                # the users in reverse, so that new item numbers come first; users keep their order of appearance
                return ["\t".join([*line.split("\t")[:1], f"i{(7 * i) % 29 + 1}", line.split("\t")[2]]) if i in rows else line
                        for i, line in enumerate(lines)]

            rewrite_rows(data_path, held_out_replaced)
        _, model, trainer, (train, _, _) = prepare(name, data_path, train_batch_size=32, **options)
        ids = dict(zip(model.item_tokens[1:], model.item_ids[1:]))
        trainer.train_steps(train)
        learnt.append((ids, model.backbone.tokenizer.get_vocab(), weights_of(model), model.item_tokens))
    assert learnt[0][:2] == learnt[1][:2] and learnt[0][3] != learnt[1][3]
    for key, value in learnt[0][2].items():
        torch.testing.assert_close(learnt[1][2][key], value, atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_recommendations_do_not_depend_on_the_order_of_rows(name, data_path):
    _, model, trainer, (_, _, test) = prepare(name, data_path)
    trainer._save_checkpoint(0)

    def lists(model, test):
        users = test._dataset.inter_feat["user_id"].numpy()
        _, top = full_sort_topk(users, model, test, k=10)
        return dict(
            zip(test.dataset.id2token("user_id", users).tolist(), test.dataset.id2token("item_id", top.numpy()).tolist())
        )

    expected = lists(model, test)
    rewrite_rows(data_path, lambda lines: [lines[i] for i in np.random.default_rng(0).permutation(len(lines))])
    _, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert lists(model, test) == expected


@pytest.mark.parametrize(
    "change, named", [({"codebook_size": 4, "codebook_levels": 3}, "other IDs"), ({"text_fields": []}, "lcrec_tasks")]
)
def test_checkpoint_of_other_ids_and_missing_titles_are_rejected(change, named, data_path):
    _, _, trainer, _ = prepare("LCRec", data_path)
    trainer._save_checkpoint(0)
    with pytest.raises(UserError, match=named):
        prepare("LCRec", data_path, **change)[2].resume_checkpoint(trainer.saved_model_file)


@pytest.mark.parametrize("name, options, named", [
    *((name, {}, "random numbers of users .* another seed than 7; use the seed") for name in T5),
    ("P5", {"item_index": "random_digits"}, "other IDs of them; use the dataset, .* seed"),
])
def test_checkpoint_of_another_seed_is_rejected(name, options, named, data_path):
    """The seed draws the numbers of users and of items, which the prompts contain."""
    options = {"semantic_id_seed": 1, **options}
    _, model, _, _ = prepare(name, data_path, **options)
    _, other, _, _ = prepare(name, data_path, **options, seed=7)
    with pytest.raises(UserError, match=named):
        other.load_other_parameter(model.other_parameter())
    model.load_other_parameter({key: value for key, value in model.other_parameter().items() if key != "user_numbers"})


def test_random_ids_do_not_depend_on_the_order_of_items():
    tokens = [f"i{i}" for i in range(120)]
    digits = random_digits(tokens, 3)
    assert digits.shape == (120, 3) and len(np.unique(digits, axis=0)) == 120 and digits.max() == 9
    assert np.array_equal(random_digits(tokens[::-1], 3), digits[::-1])
    numbers = digits @ [100, 10, 1]
    assert abs(np.corrcoef(numbers, np.arange(120))[0, 1]) < 0.3
    assert digit_index(tokens, 3).fingerprint(tokens) == digit_index(tokens[::-1], 3).fingerprint(tokens[::-1])


def test_cluster_tokens_contain_their_path_and_short_ids_end_with_an_end_token():
    codes = np.array([[1, 1, 0], [1, 2, 0], [2, 1, 1], [2, 1, 2]])  # paths (0, 0), (0, 1), (1, 0, 0), (1, 0, 1)
    ids = SemanticIDs(tuple("abcd"), {"text": codes}, {"text": (3, 3, 3)}, {"text": codes})
    index = cluster_index(ids)
    names = [[index.names[level][code] for level, code in enumerate(row)] for row in index.codes[1:]]
    assert names == [["<0>", "<#0>", "<end>"], ["<0>", "<#1>", "<end>"], ["<1>", "<1-0>", "<#0>"], ["<1>", "<1-0>", "<#1>"]]
    same_length = SemanticIDs(tuple("ab"), {"text": np.array([[0, 0], [1, 0]])}, {"text": (2, 1)}, {})
    index = cluster_index(same_length)
    assert [[index.names[level][code] for level, code in enumerate(row)] for row in index.codes[1:]] == [
        ["<0>", "<#0>"],
        ["<1>", "<#0>"],
    ]


def test_cluster_index_keeps_ids_that_differ_in_a_zero_apart():
    codes = np.array([[1, 0, 2], [1, 2, 0], [1, 2, 1]])
    index = cluster_index(SemanticIDs(tuple("abc"), {"text": codes}, {"text": (2, 3, 3)}, {"text": codes}))
    assert len(np.unique(index.codes[1:], axis=0)) == 3
    shared = SemanticIDs(tuple("ab"), {"text": codes[[0, 0]]}, {"text": (2, 3, 3)}, {"text": codes[[0, 0]]})
    with pytest.raises(UserError, match="items share a semantic ID"):
        cluster_index(shared)


# -- P5 and VIP5 ------------------------------------------------------------------------------------------------------


def test_whole_word_numbers_of_a_sentence(data_path):
    """user_7 | bought | item_ <a_1> <b_2> | , | item_ <a_0> <b_3> | ; and the end of the prompt."""
    _, model, _, _ = prepare("P5", data_path)
    writer = model.writer
    writer.items, writer.user_digits = [[], [50, 51, 52], [50, 53, 54]], [[], [7]]
    prompt = writer.write("user_{user} bought {history} ;", 1, [1, 2])
    assert prompt.words == [1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 0]
    assert prompt.tokens[1] == 7 and prompt.tokens[3:6] == [50, 51, 52] and prompt.tokens[7:10] == [50, 53, 54]
    assert prompt.tokens[-1] == model.backbone.tokenizer.eos_token_id
    writer.slots = 2
    prompt = writer.write("{history} ;", 1, [1, 2])
    assert prompt.words == [1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 0]
    assert prompt.items == [0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 0, 0]


def test_tokens_of_an_item_share_their_whole_word_embedding(data_path):
    _, model, _, _ = prepare("P5", data_path)
    model.eval()
    prompt = model.ranking_prompt(1, np.array([3, 4]))
    added = model.embed_prompts([prompt]).embeddings[0] - model.backbone.embed(torch.tensor(prompt.tokens))
    torch.testing.assert_close(added, model.whole_word.weight[torch.tensor(prompt.words)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_that_of_transformers(name, data_path):
    """P5 and VIP5: mean over samples of the mean over tokens; LCRec: mean over tokens. Tokens of a prompt have no loss."""
    tasks = {"vip5_tasks": ["next", "yes_no"]} if name == "VIP5" else {}  # whose responses have different lengths
    _, model, _, loaders = prepare(name, data_path, dropout_prob=0.0, **tasks)
    model.train()
    batch = loaders[0]._dataset[np.array([0, 3, 9, 20, 31])]
    torch.manual_seed(5)
    loss = model.calculate_loss(batch)
    torch.manual_seed(5)
    samples = model.training_samples(*model._rows(batch), batch["item_id"].tolist())
    network, expected, counts = model.backbone.merged(), [], []
    for sample in samples:
        response = torch.tensor([sample.response])
        if name == "LCRec":
            tokens = torch.tensor([[*sample.prompt.tokens, *sample.response]])
            labels = tokens.clone()
            labels[:, : len(sample.prompt.tokens)] = -100
            expected.append(network(input_ids=tokens, labels=labels).loss)
        else:
            expected.append(network(inputs_embeds=model.embed_prompts([sample.prompt]).embeddings, labels=response).loss)
        counts.append(len(sample.response))
    weights = torch.tensor(counts if name == "LCRec" else [1] * len(counts)).float()
    torch.testing.assert_close(loss, (torch.stack(expected) * weights).sum() / weights.sum(), atol=1e-5, rtol=1e-5)
    assert name != "LCRec" or len(samples) > 5


def test_vip5_trains_only_adapters_norms_and_new_modules(data_path):
    _, model, trainer, (train, _, _) = prepare("VIP5", data_path, weight_decay=0.5)
    before = weights_of(model)
    trainer.train_steps(train)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = set(before) - moved
    assert all(
        part in " ".join(moved) for part in ("down", "up", "layer_norm", "visual", "category", "whole_word", "backbone.added")
    )
    assert any(name.endswith("shared.weight") for name in frozen)
    assert not [
        name
        for name in moved
        if name.startswith("backbone.model") and not any(p in name for p in (".down.", ".up.", "layer_norm"))
    ]


def test_new_adapters_do_not_change_t5(data_path):
    _, model, _, (_, _, test) = prepare("VIP5", data_path, adapter_width=3)
    model.eval()
    users = batch_of(test)[np.arange(4)]
    with_adapters = model.rank(users, beams=ITEMS)
    adapters = [module for module in model.modules() if isinstance(module, vip5.Adapter)]
    assert len(adapters) == 2 + 3  # an encoder layer and a decoder layer
    assert all(len(adapter.down.weight) == 3 for adapter in adapters)
    for adapter in adapters:
        adapter.forward = adapter.module.forward
    torch.testing.assert_close(model.rank(users, beams=ITEMS), with_adapters, atol=1e-6, rtol=0)
    for adapter in adapters:
        del adapter.forward
        torch.nn.init.normal_(adapter.up.weight)
    assert not torch.allclose(model.rank(users, beams=ITEMS).scores, with_adapters.scores, atol=1e-3)


@pytest.mark.parametrize("tasks", [["next"], ["next", "yes_no", "direct"]])
def test_image_features_and_tasks_change_the_loss(tasks, data_path):
    losses = []
    for permuted in (False, True):
        if permuted:
            table = FeatureTable.load(data_path / TINY, "image")
            FeatureTable(table.item_tokens, table.matrix[np.random.default_rng(0).permutation(ITEMS)]).save(
                data_path / TINY, "image"
            )
        _, model, _, loaders = prepare("VIP5", data_path, dropout_prob=0.0, vip5_tasks=tasks)
        torch.manual_seed(1)
        batch = loaders[0]._dataset[np.arange(20)]
        losses.append(model.calculate_loss(batch).item())
        samples = model.training_samples(*model._rows(batch), batch["item_id"].tolist())
    assert len(samples) == 20 * len(tasks) and abs(losses[0] - losses[1]) > 1e-4
    if len(tasks) > 1:
        direct = samples[-1].prompt.items
        assert sorted(set(direct) - {0}) == list(range(1, ITEMS + 1))  # 30 items: all are candidates, the target among them
        answers = {tuple(sample.response[:-1]) for sample in samples[20:40]}
        assert answers == {tuple(model.backbone.encode(word)) for word in ("yes", "no")}


def test_sampled_items_are_distinct_and_exclude_the_target(data_path):
    _, model, _, _ = prepare("VIP5", data_path)
    for target in (1, 12, ITEMS):
        others = model._others(target, ITEMS - 1)
        assert sorted([*others, target]) == list(range(1, ITEMS + 1))


def test_vip5_answers_fit_the_candidate_and_targets_are_listed_at_random_places(data_path):
    _, model, _, _ = prepare("VIP5", data_path)
    torch.manual_seed(0)
    user, history, target = 1, [3, 5], 7

    def listed(sample) -> list[int]:
        return list(dict.fromkeys(item for item in sample.prompt.items if item))

    places = [listed(model._sample("direct", "{candidates}", user, history, target)).index(target) for _ in range(100)]
    assert len(set(places)) > 20 and {min(places), max(places)} == {0, ITEMS - 1}
    for _ in range(20):
        sample = model._sample("yes_no", "{candidate}", user, history, target)
        assert sample.response[:-1] == model.backbone.encode("yes" if listed(sample) == [target] else "no")


# -- LCRec ------------------------------------------------------------------------------------------------------------


@needs_peft
def test_lora_trains_only_its_matrices_the_head_and_added_rows(data_path):
    options = {"trained_weights": "lora", "lora_rank": 3, "lora_targets": ["q_proj"]}
    _, model, trainer, (train, _, test) = prepare("LCRec", data_path, **options)
    matrices = {name: len(p) for name, p in model.named_parameters() if "lora_A" in name}
    assert set(matrices.values()) == {3} and all("q_proj" in name for name in matrices)
    before = weights_of(model)
    trainer.train_steps(train)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"backbone.added", "backbone.added_head", "backbone.model.lm_head.weight"} < moved
    rest = moved - {"backbone.added", "backbone.added_head", "backbone.model.lm_head.weight"}
    assert rest and all("lora_" in name for name in rest)
    model.eval()
    users = batch_of(test)
    assert model.rank(users).items.tolist() == TextReference(model).rank(users, model.beams)


def test_lora_without_peft_is_a_user_error(data_path, monkeypatch):
    monkeypatch.setattr("recbole_macrec.config.schema.text_to_text.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[llm\]'"):
        prepare("LCRec", data_path, trained_weights="lora")


def test_lcrec_prompts_contain_texts_and_ids(data_path):
    file = data_path / "preferences.json"
    of_user = {"preferences": ["likes wool"], "intentions": {"i9": "beads", "i4": "a ball of wool"}}
    file.write_text(json.dumps({"u1": of_user, "unknown": {}}))
    options = {"lcrec_tasks": list(LCREC_TASKS), "preference_file": str(file), "text_fields": ["title", "categories"]}
    _, model, _, _ = prepare("LCRec", data_path, item_task_ratio=1.0, mixed_task_ratio=1.0, **options)
    decode = model.backbone.tokenizer.decode
    user, item = model.user_tokens.index("u1"), model.item_tokens.index("i4")
    history = np.array([model.item_tokens.index("i2"), model.item_tokens.index("i3")])
    ids = [*model.item_ids[item], *model.end]
    assert model._sequence(user, history, item).response == ids
    texts = ["craft item 4</s>", "paper craft</s>", "craft item 4 paper craft</s>"]
    seen = {name: set() for name in ("item_to_text", "text_to_item", "mixed", "search", "preference")}
    for _ in range(40):
        for name, kinds in seen.items():
            sample = getattr(model, f"_{name}")(user, history, item)
            kinds.add("ids" if sample.response == ids else decode(sample.response).replace(" </s>", "</s>"))
    assert seen["item_to_text"] == set(texts) and seen["text_to_item"] == seen["search"] == {"ids"}
    assert seen["mixed"] == {"ids", *texts[:2]} and seen["preference"] == {"likes wool</s>"}
    prompts = {
        name: [decode(getattr(model, f"_{name}")(user, history, item).prompt.tokens) for _ in range(40)]
        for name in ("search", "mixed")
    }
    assert {prompt.split('"')[1].strip() for prompt in prompts["search"]} == {"a ball of wool", "likes wool"}
    titles = {tuple(re.findall(r"craft item (\d+)", prompt)) for prompt in prompts["mixed"]} - {()}
    assert titles == {("2", "3")}  # the oldest first
    assert model._search(0, history, item) is None and model._preference(0, history, item) is None
    samples = model.training_samples([user, user], [history, history], [item, item])
    assert len(samples) == 2 * 6
    model.item_task_ratio, model.mixed_task_ratio = 0.5, 0.0
    assert len(model.training_samples([user, user], [history, history], [item, item])) == 2 + 1 + 1
    _, short, _, _ = prepare("LCRec", data_path, text_tokens=2, **options)
    assert max(len(text) for column in short.texts for text in column) == 2


@pytest.mark.parametrize("entry", [
    {"preferences": "likes wool"}, {"preference": ["likes wool"]}, {"preferences": [1]}, {"intentions": {"i4": ["wool"]}},
    "wool",
])
def test_preference_files_of_another_form_are_user_errors(entry, tmp_path):
    file = tmp_path / "preferences.json"
    file.write_text(json.dumps({"u1": entry}))
    with pytest.raises(UserError, match='preferences.json can\'t be read .*; expected JSON such as {"u1"'):
        user_texts(str(file))


# -- backbones --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_backbones(tmp_path_factory):
    """A T5 and a LLaMA with random weights, saved like pretrained ones, with a tokenizer of words."""
    from recbole_macrec.baselines.text_to_text.tiny import tiny_llama, tiny_t5, tiny_tokenizer

    folder = tmp_path_factory.mktemp("backbones")
    sizes = {
        "d_model": 16,
        "d_ff": 32,
        "num_heads": 2,
        "d_kv": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout_prob": 0.0,
    }
    tokenizer = tiny_tokenizer(["user_ bought item_ ; , . : ? which item comes next yes no instruction Response the user"])
    for name, build in (("t5", tiny_t5), ("llama", tiny_llama)):
        torch.manual_seed(0)
        build(sizes, tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_leave_out_frozen_weights_of_a_local_backbone(name, data_path, saved_backbones):
    folder = saved_backbones / ("llama" if name == "LCRec" else "t5")
    _, model, trainer, (train, valid, test) = prepare(name, data_path, backbone=str(folder), epochs=1)
    trainer.fit(train, valid)
    result = trainer.evaluate(test)
    saved = torch.load(trainer.saved_model_file, weights_only=True)["state_dict"]
    frozen = [key for key, weight in model.named_parameters() if not weight.requires_grad]
    assert not set(frozen) & set(saved) and bool(frozen) == (name == "VIP5")
    config, loaded, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert get_trainer(config["MODEL_TYPE"], name)(config, loaded).evaluate(test, load_best_model=False) == result
    _, other, _, _ = prepare(name, data_path)
    with pytest.raises(UserError, match="another backbone than tiny"):
        other.load_other_parameter(model.other_parameter())


def saved_causal_model(kind: str, folder: Path, **settings) -> str:
    """Save a causal model of the class ``kind`` of transformers with random weights; return its folder."""
    from recbole_macrec.baselines.text_to_text.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(["the user bought item , . : ?"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(tokenizer),
             "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
             "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **settings})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_embeddings_of_added_tokens_have_the_scale_of_the_table(data_path, tmp_path):
    """Gemma multiplies the rows of its table by the square root of its width."""
    folder = saved_causal_model("Gemma", tmp_path / "gemma", intermediate_size=32, num_key_value_heads=1, head_dim=8)
    _, model, _, (_, _, test) = prepare("LCRec", data_path, backbone=folder)
    model.eval()
    users = batch_of(test)[np.array([0, 5])]
    items = torch.arange(1, ITEMS + 1).expand(2, -1)
    torch.testing.assert_close(model.item_scores(users, items), brute_force(model, users)[:, 1:], atol=1e-5, rtol=0)


# -- saved folders ----------------------------------------------------------------------------------------------------

HISTORIES = {"ann": ["i4", "i5", "i6"], "bob": ["i9"]}


def trained(name, path, **options) -> Recommender:
    _, model, trainer, (train, _, _) = prepare(name, path, **options)
    trainer.train_steps(train)
    return Recommender(model)


@pytest.mark.parametrize("options", [{}, CID, pytest.param({"trained_weights": "lora"}, marks=needs_peft)])
def test_saved_folder_recommends_the_same_after_moving_it(options, data_path, tmp_path):
    recommender = trained("LCRec", data_path, **options)
    expected = recommender.recommend(HISTORIES, k=ITEMS, exclude_seen=True)
    recommender.save_pretrained(tmp_path / "folder")
    shutil.rmtree(data_path)
    loaded = Recommender.from_pretrained((tmp_path / "folder").rename(tmp_path / "moved"), device="cpu")
    pd.testing.assert_frame_equal(loaded.recommend(HISTORIES, k=ITEMS, exclude_seen=True), expected, check_exact=True)
    assert loaded.titles["i3"] == "craft item 3"
    loaded.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (tmp_path / "moved" / file.name).read_bytes()


@pytest.mark.parametrize("weights", ["all", pytest.param("lora", marks=needs_peft)])
def test_saved_folder_needs_the_same_local_backbone(weights, data_path, saved_backbones, tmp_path):
    """Also with tied tables, which share their memory."""
    backbone = shutil.copytree(saved_backbones / "llama", tmp_path / "llama")
    settings = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": True}))
    recommender = trained("LCRec", data_path, backbone=str(backbone), trained_weights=weights)
    recommender.save_pretrained(tmp_path / "folder")
    loaded = Recommender.from_pretrained(tmp_path / "folder", device="cpu")
    pd.testing.assert_frame_equal(loaded.recommend(HISTORIES), recommender.recommend(HISTORIES), check_exact=True)
    shutil.rmtree(backbone)
    with pytest.raises(UserError, match=f"model folder {backbone} of backbone does not exist"):
        Recommender.from_pretrained(tmp_path / "folder")
    shutil.copytree(saved_backbones / "llama", backbone)
    with pytest.raises(UserError, match="trained with another backbone than"):
        Recommender.from_pretrained(tmp_path / "folder")


@pytest.mark.parametrize("name", T5)
def test_models_that_write_users_into_prompts_are_not_saved_as_recommenders(name, data_path):
    with pytest.raises(UserError, match=f"{name} reads users besides histories .* use RecBole's full_sort_topk"):
        trained(name, data_path)


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone, named", [
    ("no/such-model", "hf download no/such-model --local-dir FOLDER.*set backbone: FOLDER"),
    ("./nowhere", "model folder nowhere of backbone does not exist"),
])
@pytest.mark.parametrize("name", ["P5", "LCRec"])
def test_error_of_a_missing_backbone_names_the_files_needed(name, backbone, named, data_path, monkeypatch):
    monkeypatch.setattr("recbole_macrec.data.encoders.source.hub_answers", lambda: False)
    with pytest.raises(UserError, match=named):
        prepare(name, data_path, backbone=backbone)


@pytest.mark.parametrize("name, folder", [("P5", "llama"), ("LCRec", "t5")])
def test_backbone_of_the_wrong_architecture_is_rejected(name, folder, data_path, saved_backbones):
    with pytest.raises(UserError, match="needs a"):
        prepare(name, data_path, backbone=str(saved_backbones / folder))


@pytest.mark.parametrize("kind, settings", [("Bloom", {}), ("Mamba", {"state_size": 4})])
def test_backbone_that_does_not_follow_masks_and_positions_is_rejected(kind, settings, data_path, tmp_path):
    folder = saved_causal_model(kind, tmp_path / "backbone", **settings)
    with pytest.raises(UserError, match=f"is a {kind.lower()} model, which cannot score several items .* choose another"):
        prepare("LCRec", data_path, backbone=folder)


@pytest.mark.parametrize("kind, settings", [
    ("GPT2", {"n_positions": 60}), ("Mistral", {"intermediate_size": 32, "num_key_value_heads": 1, "sliding_window": 60}),
])
def test_prompts_longer_than_the_backbone_reads_are_user_errors(kind, settings, data_path, tmp_path):
    folder = saved_causal_model(kind, tmp_path / "backbone", **settings)
    _, model, trainer, (train, _, test) = prepare("LCRec", data_path, backbone=folder, text_tokens=3)
    message = "reads at most 60 tokens in all its layers; lower text_tokens or MAX_ITEM_LIST_LENGTH"
    with pytest.raises(UserError, match=message):
        trainer.train_steps(train)
    with pytest.raises(UserError, match=message):
        model.eval().full_sort_predict(batch_of(test))
    _, model, trainer, (train, _, test) = prepare("LCRec", data_path, backbone=folder, MAX_ITEM_LIST_LENGTH=2)
    trainer.train_steps(train)
    users = batch_of(test)[np.array([0, 5])]
    items = torch.arange(1, ITEMS + 1).expand(2, -1)
    torch.testing.assert_close(
        model.eval().item_scores(users, items), brute_force(model, users)[:, 1:], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name, option, value, expected", [
    ("P5", "item_index", "cid", "quantizer is rq_kmeans; set quantizer to cid"),
    ("P5", "item_index", "numbers", "random_digits"),
    ("LCRec", "item_index", "random_digits", "codes or cid"),
    ("P5", "num_beams", 5, "largest topk"),
    ("P5", "backbone", 3, "text"),
    ("P5", "decode", "exact", "beam"),
    ("VIP5", "vip5_tasks", ["direct"], "next among them"),
    ("VIP5", "visual_tokens", 0, ">= 1"),
    ("LCRec", "lcrec_tasks", ["mixed"], "sequence among them"),
    ("LCRec", "lcrec_tasks", ["sequence", "search"], "preference_file"),
    ("LCRec", "trained_weights", "some", "all or lora"),
    ("LCRec", "num_heads", 3, "num_heads is 3; expected half of d_model"),
])
def test_invalid_options_are_user_errors(name, option, value, expected, data_path):
    with pytest.raises(UserError, match=expected):
        prepare(name, data_path, **{option: value})


def test_cid_index_of_published_ids_is_a_user_error(data_path):
    with pytest.raises(UserError, match="item_index is cid.* semantic_ids is published; set item_index to codes"):
        prepare("P5", data_path, **CID, semantic_ids="published")


def test_cid_index_of_other_ids_is_a_user_error(data_path):
    """quantizer: None is that of the modalities, rqvae for one."""
    with pytest.raises(UserError, match="item_index is cid.* quantizer is None; set quantizer to cid"):
        prepare("P5", data_path, **{**CID, "quantizer": None})


def test_models_share_one_table(data_path, capsys):
    words = as_words({**QUICK, "epochs": 1, "show_progress": False, "state": "ERROR"})
    argv = [
        "--model=P5,VIP5,LCRec",
        f"--dataset={TINY}",
        f"--data_path={data_path}",
        *words,
        "--codebook_size=8",
        "--codebook_levels=2",
        "--modalities=[text,image]",
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    first = [line.strip("│| ").split(" ")[0] for line in printed.splitlines()]
    assert [name for name in first if name in NAMES] == NAMES and printed.count("test results") == 1


def test_the_linear_schedule_rises_and_falls_to_zero(data_path):
    _, _, trainer, _ = prepare("P5", data_path, warmup_ratio=0.2, learning_rate=1.0)
    trainer.steps, rates = 10, []
    for trainer.step in range(10):
        trainer._set_learning_rate()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.5, 1.0, *(1 - np.arange(8) / 8)])
