"""P5-CID: a T5 that reads the history as a sentence and generates the ID of the next item.

Shapes: B prompts, S positions, D model width.
"""
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from recbole_macrec.baselines.text_to_text.backbones import EncoderDecoder, Prompts, load_t5, padded
from recbole_macrec.baselines.text_to_text.item_index import random_digits
from recbole_macrec.baselines.text_to_text.recommender import TextToTextRecommender
from recbole_macrec.baselines.text_to_text.trie_decoders import T5TrieDecoder
from recbole_macrec.baselines.text_to_text.whole_words import ITEM, Prompt, PromptWriter, Sample
from recbole_macrec.config.schema.models import P5Options
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.semantic_ids.order import order_fingerprint, token_order

STD = 1.0  # standard deviation of the initial whole-word embeddings, that of T5's own table
WORDINGS = (  # the first one is that of ranking
    "user_{user} bought {history} ; which item comes next ?",
    "Given that user_{user} has bought {history} , predict the next item :",
    "The purchases of user_{user} in order are {history} . Recommend the next item .",
    "What would user_{user} buy after {history} ?",
    "user_{user} has chosen {history} so far . The next choice will be",
    "After the items {history} , which item will user_{user} want ?",
    "Here is the purchase history of user_{user} : {history} . Continue it :",
    "Knowing the items {history} of user_{user} , name one more item :",
    "Which item should be shown to user_{user} , who bought {history} ?",
    "The sequence {history} belongs to user_{user} . Its next item is",
)


class P5(TextToTextRecommender):
    """P5-CID (Hua et al., "How to Index Item IDs for Recommendation Foundation Models", SIGIR-AP 2023, arXiv 2305.06569) with
    the model of P5 (Geng et al., RecSys 2022, arXiv 2203.13366), on the sequential task.

    To the embedding of every prompt token a whole-word embedding is added, indexed by the running number of the word, so that
    all tokens of an item share it. The loss is the cross-entropy of ``item_``, the tokens of the target's ID and the end token.
    Every training position is a target, with a random wording of ten in each epoch.
    """

    options = P5Options
    requires_users = True
    whole_words = 512  # rows of the whole-word embedding; later words share the last row
    backbone: EncoderDecoder

    @classmethod
    def wordings(cls) -> Sequence[str]:
        """All wordings of the prompts."""
        return WORDINGS

    def build_backbone(self, config, dataset) -> EncoderDecoder:
        words = [wording.replace("{", " ").replace("}", " ") for wording in self.wordings()]
        return load_t5(config, [*words, ITEM, "yes no"], list(dict.fromkeys([*self.index.tokens, *"0123456789"])))

    def build_extras(self, config, dataset) -> None:
        digits = np.array(self.backbone.tokens("0123456789"))
        self.user_numbers = random_digits(self.user_tokens[1:], config["seed"])
        self.writer = PromptWriter(
            self.backbone, self.item_ids, [[], *digits[self.user_numbers].tolist()], self.visual_slots(config)
        )
        self.whole_word = nn.Embedding(self.whole_words, self.backbone.table.embedding_dim)
        nn.init.normal_(self.whole_word.weight, std=STD)

    @staticmethod
    def visual_slots(config) -> int:
        """Number of visual slots after each item."""
        return 0

    def training_samples(self, users: Sequence[int], histories: Sequence[np.ndarray], targets: Sequence[int]) -> list[Sample]:
        drawn = torch.randint(len(WORDINGS), (len(users),)).tolist()
        return [
            Sample(self.writer.write(WORDINGS[wording], user, history.tolist()), self.writer.response(target))
            for wording, user, history, target in zip(drawn, users, histories, targets)
        ]

    def ranking_prompt(self, user: int, history: np.ndarray) -> Prompt:
        return self.writer.write(WORDINGS[0], user, history.tolist())

    def embed_prompts(self, prompts: Sequence[Prompt]) -> Prompts:
        tokens, keep = padded([prompt.tokens for prompt in prompts], self.device)
        words, _ = padded([prompt.words for prompt in prompts], self.device)
        return Prompts(self.backbone.embed(tokens) + self.whole_word(words.clamp(max=self.whole_words - 1)), keep)

    def decoder(self, trie: Trie) -> T5TrieDecoder:
        return T5TrieDecoder(self.backbone, trie, self.level_tokens(), self.writer.item_start)

    def other_parameter(self) -> dict:
        tokens = self.user_tokens[1:]
        numbers = hashlib.sha256(self.user_numbers[token_order(tokens)].tobytes()).hexdigest()[:16]
        return {**super().other_parameter(), "users": order_fingerprint(sorted(tokens)), "user_numbers": numbers}

    def load_other_parameter(self, para: dict | None) -> None:
        super().load_other_parameter(para)
        theirs, ours = para or {}, self.other_parameter()
        if theirs.get("users") != ours["users"]:
            raise UserError(
                f"{type(self).__name__} writes users into its prompts, and the {len(self.user_tokens) - 1} users of the "
                "dataset are not those of the checkpoint; use the interactions it was trained on, or train again."
            )
        if theirs.get("user_numbers", ours["user_numbers"]) != ours["user_numbers"]:  # missing in old checkpoints
            raise UserError(
                f"{type(self).__name__} writes random numbers of users into its prompts, and those of the checkpoint are of "
                f"another seed than {self.config['seed']}; use the seed it was trained with."
            )
