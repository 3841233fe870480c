"""LC-Rec: a causal language model whose vocabulary is extended by the tokens of semantic IDs."""
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from recbole_macrec.baselines.text_to_text import lcrec_wordings as wordings
from recbole_macrec.baselines.text_to_text.backbones import TOLERANCE, CausalModel, Prompts, load_causal, padded
from recbole_macrec.baselines.text_to_text.recommender import TextToTextRecommender
from recbole_macrec.baselines.text_to_text.trie_decoders import CausalLMTrieDecoder
from recbole_macrec.baselines.text_to_text.whole_words import Prompt, Sample
from recbole_macrec.config.schema.models import LCRecOptions
from recbole_macrec.config.schema.text_to_text import FILE_TASKS
from recbole_macrec.data.atomic import AtomicFormat, read_items
from recbole_macrec.errors import UserError, is_out_of_memory, one_line
from recbole_macrec.generation.decoding.candidates import candidate_scores
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.model.tasks import random_count

TEXT_TASKS = ("text_to_item", "item_to_text", "mixed")  # they read titles and descriptions
KINDS = ("title", "description", "both")


class UserText(NamedTuple):
    """Texts about one user, from ``preference_file``."""

    preferences: list[list[int]]  # tokens of each
    intentions: dict[int, list[int]]  # item number -> tokens


class LCRec(TextToTextRecommender):
    """LC-Rec (Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation", ICDE
    2024, arXiv 2311.09049).

    Instruction and response are one sequence of a causal language model; the loss is the cross-entropy of the response's
    tokens. Every training position is a sample of the task ``sequence``, history of IDs -> next ID. The other ``lcrec_tasks``
    are trained on a random share of each batch: their items are the batch's targets, so no task reads an item that training
    does not.

    With ``trained_weights: lora`` the layers' matrices get low-rank additions (peft), which are trained together with the
    output table, unless it is tied to the input table, and the rows of the added tokens.
    """

    options = LCRecOptions
    averages_samples = False
    backbone: CausalModel

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        return True

    def build_backbone(self, config, dataset) -> CausalModel:
        self.tasks = config["lcrec_tasks"]
        texts = item_texts(dataset, config, self.item_tokens[1:]) if set(self.tasks) & set(TEXT_TASKS) else []
        users = user_texts(config["preference_file"]) if set(self.tasks) & set(FILE_TASKS) else {}
        backbone = load_causal(config, [*_all_wordings(), *sum(texts, []), *_texts_of(users)], self.index.tokens)
        if config["trained_weights"] == "lora":
            add_lora(backbone.model, config)
        self.end = [] if backbone.tokenizer.eos_token_id is None else [backbone.tokenizer.eos_token_id]
        self._encoded: dict[str, list[int]] = {}
        limit = config["text_tokens"]
        self.texts = [[backbone.encode(text)[:limit] if text else [] for text in ["", *column]] for column in texts]
        self.user_texts = self._joined(users, lambda text: backbone.encode(text)[:limit])
        return backbone

    def build_extras(self, config, dataset) -> None:
        self.item_task_ratio, self.mixed_task_ratio = config["item_task_ratio"], config["mixed_task_ratio"]
        self.comma = self.backbone.encode(", ")
        self._check_ranking()

    @torch.no_grad()
    def _check_ranking(self) -> None:
        """Check for a short prompt that the search, where items share the prompt, gives the scores of the training.

        Raises:
            UserError: the backbone does not follow masks and positions, as recurrent models and BLOOM.
        """
        backbone, device = self.backbone, self.backbone.table.weight.device
        items = [1, self.n_items - 1]
        prompt = self.ranking_prompt(0, np.array([1])).tokens
        responses, keep = padded([self.item_ids[item] for item in items], device)
        training = backbone.model.training
        backbone.model.eval()
        problem = ""
        try:
            alone, together = (
                Prompts(backbone.embed(tokens), exists)
                for tokens, exists in (padded([prompt] * count, device) for count in (len(items), 1))
            )
            logits = backbone.logits(backbone.states(alone, responses, keep)).view(*responses.shape, -1)
            expected = logits.log_softmax(-1).gather(2, responses.unsqueeze(2)).mean((1, 2))
            scores = candidate_scores(self.decoder(self.trie), together, torch.tensor([items], device=device))[0]
            if not torch.allclose(scores, expected, rtol=TOLERANCE, atol=TOLERANCE):
                problem = f"the scores of two items are {scores.tolist()} instead of {expected.tolist()}"
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            problem = one_line(error, 150)
        backbone.model.train(training)
        if problem:
            raise UserError(
                f"backbone {self.config['backbone']} is a {backbone.model.config.model_type} model, which cannot score "
                f"several items after one prompt ({problem}); choose another model, such as one of LLaMA, Qwen2, Mistral or "
                "GPT-2."
            )

    def trained_parameters(self, config) -> list[nn.Parameter]:
        if config["trained_weights"] == "all":
            return list(self.backbone.model.parameters())
        lora = [parameter for name, parameter in self.backbone.model.named_parameters() if "lora_" in name]
        return lora if self.backbone.tied else [*lora, *self.backbone.head.parameters()]

    def saved_options(self) -> dict:
        """Without the tasks whose texts are read for training only."""
        return {**super().saved_options(), "lcrec_tasks": ["sequence"], "preference_file": None}

    def decoder(self, trie: Trie) -> CausalLMTrieDecoder:
        return CausalLMTrieDecoder(self.backbone, trie, self.level_tokens())

    # -- prompts ------------------------------------------------------------------------------------------------------

    def ranking_prompt(self, user: int, history: np.ndarray) -> Prompt:
        return self._prompt(wordings.SEQUENCE[0], history=self._items(history))

    def training_samples(self, users: Sequence[int], histories: Sequence[np.ndarray], targets: Sequence[int]) -> list[Sample]:
        rows = list(zip(users, histories, targets))
        samples = [self._sequence(*row) for row in rows]
        for task, ratio in (
            ("text_to_item", self.item_task_ratio),
            ("item_to_text", self.item_task_ratio),
            ("mixed", self.mixed_task_ratio),
            ("search", self.mixed_task_ratio),
            ("preference", self.mixed_task_ratio),
        ):
            if task in self.tasks:
                drawn = torch.randperm(len(rows))[: random_count(ratio, len(rows))].tolist()
                written = (getattr(self, f"_{task}")(*rows[i]) for i in drawn)
                samples += [sample for sample in written if sample is not None]
        return samples

    def _sequence(self, user: int, history: np.ndarray, target: int) -> Sample:
        prompt = self._prompt(_draw(wordings.SEQUENCE), history=self._items(history))
        return Sample(prompt, [*self.item_ids[target], *self.end])

    def _text_to_item(self, user: int, history: np.ndarray, target: int) -> Sample | None:
        kinds = self._kinds(target)
        if not kinds:
            return None
        prompt = self._prompt(_draw(wordings.TEXT_TO_ITEM[_draw(kinds)]), **self._text_slots(target))
        return Sample(prompt, [*self.item_ids[target], *self.end])

    def _item_to_text(self, user: int, history: np.ndarray, target: int) -> Sample | None:
        kinds = self._kinds(target)
        if not kinds:
            return None
        kind, slots = _draw(kinds), self._text_slots(target)
        text = [*slots["title"], *self._tokens("\n"), *slots["description"]] if kind == "both" else slots[kind]
        return Sample(self._prompt(_draw(wordings.ITEM_TO_TEXT[kind]), item=self.item_ids[target]), [*text, *self.end])

    def _mixed(self, user: int, history: np.ndarray, target: int) -> Sample | None:
        titles = [self.texts[0][item] for item in history if self.texts[0][item]]
        kinds = [kind for kind in self._kinds(target) if kind != "both"] + (["item"] if titles else [])
        if not kinds:
            return None
        kind = _draw(kinds)
        prompt = self._prompt(_draw(wordings.MIXED[kind]), history=self._items(history), titles=self._joined_by_commas(titles))
        return Sample(prompt, [*(self.item_ids[target] if kind == "item" else self._text_slots(target)[kind]), *self.end])

    def _search(self, user: int, history: np.ndarray, target: int) -> Sample | None:
        texts = self.user_texts.get(user, UserText([], {}))
        known = [("preference", text) for text in texts.preferences]
        if target in texts.intentions:
            known.append(("intention", texts.intentions[target]))
        if not known:
            return None
        kind, text = _draw(known)
        prompt = self._prompt(_draw(wordings.SEARCH[kind]), history=self._items(history), text=text)
        return Sample(prompt, [*self.item_ids[target], *self.end])

    def _preference(self, user: int, history: np.ndarray, target: int) -> Sample | None:
        preferences = self.user_texts[user].preferences if user in self.user_texts else []
        if not preferences:
            return None
        return Sample(self._prompt(_draw(wordings.PREFERENCE), history=self._items(history)), [*_draw(preferences), *self.end])

    def _kinds(self, item: int) -> list[str]:
        """The kinds of text that an item has."""
        slots = self._text_slots(item)
        kinds = [kind for kind in KINDS[:2] if slots[kind]]
        return [*kinds, "both"] if len(kinds) == 2 else kinds

    def _text_slots(self, item: int) -> dict[str, list[int]]:
        return dict(zip(KINDS[:2], [*(column[item] for column in self.texts), []]))

    def _items(self, history: np.ndarray) -> list[int]:
        return self._joined_by_commas([self.item_ids[item] for item in history])

    def _joined_by_commas(self, parts: Sequence[list[int]]) -> list[int]:
        return [token for i, part in enumerate(parts) for token in ([*self.comma, *part] if i else part)]

    def _prompt(self, wording: str, **slots: list[int]) -> Prompt:
        """Fill in a wording; a slot is a list of tokens."""
        bos = self.backbone.tokenizer.bos_token_id
        tokens = [] if bos is None else [bos]
        for part in re.split(r"(\{\w+\})", wordings.FRAME.replace("{instruction}", wording)):
            tokens += slots[part[1:-1]] if part.startswith("{") else self._tokens(part)
        return Prompt(tokens, [], [])

    def _tokens(self, text: str) -> list[int]:
        if text not in self._encoded:
            self._encoded[text] = self.backbone.encode(text) if text else []
        return self._encoded[text]

    def _joined(self, users: dict[str, dict], encode) -> dict[int, UserText]:
        """Texts by user and item number; users and items that the dataset lacks are left out."""
        user_of = {token: number for number, token in enumerate(self.user_tokens)}
        item_of = {token: number for number, token in enumerate(self.item_tokens)}
        return {
            user_of[user]: UserText(
                [encode(text) for text in texts["preferences"]],
                {item_of[item]: encode(text) for item, text in texts["intentions"].items() if item in item_of},
            )
            for user, texts in users.items()
            if user in user_of
        }


def _draw(choices: Sequence):
    """A random one of ``choices``."""
    return choices[int(torch.randint(len(choices), ()))]


def _all_wordings() -> list[str]:
    """All words of the prompts, for the tokenizer of a tiny backbone."""
    groups = (wordings.TEXT_TO_ITEM, wordings.ITEM_TO_TEXT, wordings.MIXED, wordings.SEARCH)
    return [
        wordings.FRAME,
        *wordings.SEQUENCE,
        *wordings.PREFERENCE,
        *(text for group in groups for texts in group.values() for text in texts),
    ]


def item_texts(dataset, config, item_tokens: Sequence[str]) -> list[list[str]]:
    """Titles and, if there are any, descriptions: the columns of ``NAME.item`` that the first two ``text_fields`` name.

    Returns:
        Up to two lists, in the order of ``item_tokens``; "" for an item without text.

    Raises:
        UserError: ``NAME.item`` is missing or has none of the columns.
    """
    folder, fields = Path(dataset.dataset_path), list(config["text_fields"] or [])[:2]
    frame = read_items(folder, dataset.dataset_name, AtomicFormat.from_config(config)).set_index("item_id")
    if not fields or fields[0] not in frame:
        raise UserError(f"{dataset.dataset_name}.item has no column {fields[0] if fields else 'title'}, which the tasks "
                        f"{', '.join(TEXT_TASKS)} read as the title; set text_fields, or lcrec_tasks to [sequence].")
    return [frame[name].reindex(item_tokens, fill_value="").tolist() for name in fields if name in frame]


def user_texts(path: str) -> dict[str, dict]:
    """Read a ``preference_file``: {user: {"preferences": [text, ...], "intentions": {item: text, ...}}}.

    Raises:
        UserError: it is missing, or has another form.
    """
    try:
        users = json.loads(Path(path).read_text(encoding="utf-8"))
        return {user: _checked_texts(user, texts) for user, texts in users.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"preference_file {path} can't be read ({one_line(error, 150)}); expected JSON such as "
                        '{"u1": {"preferences": ["likes watercolour"], "intentions": {"i5": "a round brush"}}}.') from None


def _checked_texts(user: str, texts: dict) -> dict:
    """The entry of a user in a ``preference_file``, complete; raise a ValueError if it has another form."""
    entry = {"preferences": [], "intentions": {}, **texts}
    preferences, intentions = entry["preferences"], entry["intentions"]
    fits = len(entry) == 2 and isinstance(preferences, list) and isinstance(intentions, dict)
    if not fits or not all(isinstance(text, str) for text in [*preferences, *intentions.values()]):
        raise ValueError(f"the entry of {user} is {texts}")
    return entry


def _texts_of(users: dict[str, dict]) -> list[str]:
    return [text for texts in users.values() for text in [*texts["preferences"], *texts["intentions"].values()]]


def add_lora(model, config) -> None:
    """Add low-rank matrices to the modules ``lora_targets`` of a model."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=config["lora_rank"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config["lora_dropout"],
        target_modules=list(config["lora_targets"]),
    )
    try:
        inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise UserError(f"lora_targets is {config['lora_targets']}, which does not fit the backbone {config['backbone']} "
                        f"({one_line(error, 150)}); name its linear layers.") from None
