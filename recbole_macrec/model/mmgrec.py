"""MMGRec: semantic IDs from features and interactions, and an encoder that reads a user's items as a set.

Shapes: B users, T items of the longest history, R width of a representation.
"""
from dataclasses import replace

import numpy as np
import torch
from recbole.utils import ModelType
from torch import nn

from recbole_macrec.config.schema.models import MMGRecOptions
from recbole_macrec.config.schema.protocol import EVAL_BATCH_SCORES
from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.network.memory import Memory
from recbole_macrec.generation.network.packing import pack
from recbole_macrec.generation.network.set_encoder import SetEncoder
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import Histories, Windows, decoder_input
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.interacted_items import InteractedItems, without_target
from recbole_macrec.model.tasks import SourceTasks, Task
from recbole_macrec.model.windowed import with_target
from recbole_macrec.semantic_ids.order import order_fingerprint, token_order, token_ranks, user_order
from recbole_macrec.semantic_ids.rows import standardized
from recbole_macrec.utils.modules import add_derived_buffer


class MMGRec(GenerativeRecommender):
    """MMGRec (Liu et al., "Multimodal Generative Recommendation with Transformer Model", 2024, arXiv 2404.16555).

    A semantic ID consists of the codes of an item's graph representation and a popularity token. The encoder reads the
    representations of a user's items as a set, with relation-aware attention; the decoder generates the ID of another item.
    The target is never in the input.

    Under a leave-one-out split a sample is the target and the items before it, as for every sequential model of RecBole. Under
    any other split (``eval_args: {split: {RS: [0.8, 0.1, 0.1]}}``) MMGRec is a general model of RecBole: a sample is a training
    item with the user's other training items, a user has several targets, and the evaluator masks the items that the user
    interacted with before. At most ``MAX_ITEM_LIST_LENGTH`` items are read, the latest ones.
    """

    options = MMGRecOptions
    requires_users = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.max_items = config["MAX_ITEM_LIST_LENGTH"]
        self.interacted = None
        if config["MODEL_TYPE"] == ModelType.GENERAL:
            self.interacted = InteractedItems.of(dataset)
        # Row of each internal number in the tables of items and users, which checkpoints store sorted by token. Row 0 of the
        # items is the padding.
        add_derived_buffer(self, "item_row", np.append(0, 1 + token_ranks(self.semantic_ids.item_tokens)))  # [n_items]
        self.user_tokens = dataset.field2id_token[self.USER_ID].tolist()
        users = user_order(self.user_tokens)
        add_derived_buffer(self, "user_row", np.argsort(users))  # [user_num]
        if config["encoder_input"] == "learnt":
            width = config["d_model"]
            self.items, self.users = nn.Embedding(self.n_items, width), nn.Embedding(dataset.user_num, width)
        else:
            graph = self.semantic_ids.graph
            if graph is None:
                raise UserError("encoder_input is graph, but published semantic IDs have no graph; set encoder_input to "
                                "learnt, or semantic_ids to learn.")
            width = graph.items.shape[1]
            items = standardized(graph.items[token_order(self.semantic_ids.item_tokens)])
            self.items = frozen(np.vstack([np.zeros_like(items[:1]), items]))  # row 0 is padding
            self.users = frozen(standardized(graph.users[users]))
        self.reader = SetEncoder(TransformerSettings.from_config(config), width, config["attention"])

    def other_parameter(self) -> dict:
        return {**super().other_parameter(), "users": order_fingerprint(sorted(self.user_tokens))}

    def load_other_parameter(self, para: dict | None) -> None:
        super().load_other_parameter(para)
        if (para or {}).get("users") != self.other_parameter()["users"]:
            raise UserError(f"{type(self).__name__} reads users, and the {len(self.user_tokens) - 1} users of the dataset are "
                            "not those of the checkpoint; use the interactions it was trained on, or train again.")

    @classmethod
    def settings_of_split(cls, split: dict) -> dict:
        if "LS" in split:
            return {}
        return {"MODEL_TYPE": ModelType.GENERAL, "repeatable": False, "eval_batch_size": EVAL_BATCH_SCORES}

    def build_network(self, config) -> Transformer:
        settings = replace(TransformerSettings.from_config(config), encoder_layers=0)  # the encoder is ``reader``
        return Transformer(len(self.vocabulary), settings)

    @classmethod
    def check_modalities(cls, modalities: list[str]) -> None:
        if len(modalities) != 1:
            raise UserError(f"{cls.__name__} reads one semantic ID per item, not one of each modality {modalities}; set "
                            "representation to graph or concatenated.")

    def tasks(self, config) -> tuple[list[Task], list[Task]]:
        return [Task(self.modalities[0], self.modalities[0])], []

    def histories(self, interaction) -> Histories:
        users = interaction[self.USER_ID]
        items, length = self._items_of(interaction, self.max_items)
        return Histories(items[:, : self.max_items], length.clamp(1, self.max_items).cpu(), users)

    def windows(self, interaction) -> Windows:
        """Windows with one target each; the target is removed from the items before it."""
        target = interaction[self.POS_ITEM_ID].to(self.device)
        items, length = without_target(*self._items_of(interaction, self.max_items + 1), target)
        length = length.clamp(1, self.max_items)
        items = with_target(items[:, : self.max_items], length, target)
        return Windows(items, length.cpu() + 1, length.cpu(), interaction[self.USER_ID].to(self.device))

    def _items_of(self, interaction, max_items: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Items [B, T] of the users, padded with 0, and their number [B]."""
        if self.interacted is None:
            return interaction[self.ITEM_SEQ].to(self.device), interaction[self.ITEM_SEQ_LEN].to(self.device)
        return self.interacted.last(interaction[self.USER_ID].to(self.device), max_items)

    def _input_lengths(self, length: torch.Tensor) -> torch.Tensor:
        return length  # one position per item, not per code

    def encode_history(self, modality: str, histories: Histories) -> Memory:
        source = pack(histories.items, histories.length, self.group_overhead)
        return self.reader(source, self.items(self.item_row[source.tokens]), self.users(self.user_row[histories.users]))

    def sequence_loss(self, group: list[SourceTasks], windows: Windows, samples: float) -> torch.Tensor:
        ((source, _),), items = group, windows.target_items()
        memory = self.encode_history(source, Histories(windows.items, windows.first, windows.users))
        tokens = decoder_input(self.inputs.tokens(source, items), self.vocabulary.start[source])
        hidden = self.network.decode(tokens.unsqueeze(1), memory)[:, 0]  # [B, L, D]
        return self.passes.cross_entropy(source, hidden, items) / samples


def frozen(vectors: np.ndarray) -> nn.Embedding:
    """An embedding table that is not trained."""
    return nn.Embedding.from_pretrained(torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)), freeze=True)
