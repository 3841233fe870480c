"""Base class of the text-to-text models: language models that read a history as text and generate the tokens of an item.

Shapes: B users, C items of a user, W beams, N items including the padding, n positions of all responses, D model width.
"""
import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.baselines.text_to_text.backbones import FINGERPRINT, TINY, Backbone, Prompts, padded
from recbole_macrec.baselines.text_to_text.item_index import ItemIndex, cluster_index, digit_index, semantic_index
from recbole_macrec.baselines.text_to_text.trie_decoders import TextTrieDecoder
from recbole_macrec.baselines.text_to_text.whole_words import Prompt, Sample
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.candidates import candidate_scores
from recbole_macrec.generation.decoding.fusion import score_matrix
from recbole_macrec.generation.decoding.search import Ranking, beam_search
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network.packing import split_batch
from recbole_macrec.model.windowed import WindowedRecommender, in_eval_precision
from recbole_macrec.utils.device_budget import count_that_fits
from recbole_macrec.utils.distributed_tensors import mean_over_processes
from recbole_macrec.utils.modules import add_derived_buffer

MAX_LOGITS = 2**25  # logits of a step of the search on a CPU: 128 MiB


class TextToTextRecommender(WindowedRecommender):
    """A language model that generates the ID of the next item from a prompt.

    Training minimises the cross-entropy of the responses over the whole vocabulary. Ranking is a beam search over the trie of
    the items' IDs; items that no beam reaches follow in item order.

    A subclass builds the backbone, writes the prompts and chooses the trained parameters.

    Attributes:
        averages_samples: True: the loss is the mean over samples of the mean over a sample's tokens; False: the mean over
            tokens.
    """

    averages_samples = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.beams = config["num_beams"]
        self.item_tokens = dataset.field2id_token[self.ITEM_ID].tolist()
        self.user_tokens = dataset.field2id_token[self.USER_ID].tolist()
        self.semantic_ids = dataset.semantic_ids if self.reads_semantic_ids(config) else None
        self.index = self._item_index(config)
        self.backbone = self.build_backbone(config, dataset)
        if config[FINGERPRINT] not in (None, self.backbone.fingerprint):
            raise self._other_backbone()
        level_tokens = [np.array(self.backbone.tokens(names)) for names in self.index.names]
        self.item_ids = np.stack([tokens[codes] for tokens, codes in zip(level_tokens, self.index.codes.T)], axis=1).tolist()
        for level, tokens in enumerate(level_tokens):
            add_derived_buffer(self, f"tokens_{level}", tokens)
        self.trie = Trie(self.index.codes[1:], np.arange(1, self.n_items))
        self.build_extras(config, dataset)
        for parameter in self.backbone.model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.trained_parameters(config):
            parameter.requires_grad_(True)

    def _item_index(self, config) -> ItemIndex:
        if self.semantic_ids is None:
            return digit_index(self.item_tokens[1:], config["seed"])
        return (cluster_index if config["item_index"] == "cid" else semantic_index)(self.semantic_ids)

    def build_backbone(self, config, dataset) -> Backbone:
        """Load or create the language model, with the tokens of ``self.index`` added."""
        raise NotImplementedError

    def build_extras(self, config, dataset) -> None:
        """Create further modules, after the backbone."""

    def trained_parameters(self, config) -> list[nn.Parameter]:
        """Parameters of the backbone that are trained; all others outside ``backbone.model`` are trained too."""
        return list(self.backbone.model.parameters())

    def training_samples(self, users: Sequence[int], histories: Sequence[np.ndarray], targets: Sequence[int]) -> list[Sample]:
        """Write the samples of a training batch; random choices use torch's generator."""
        raise NotImplementedError

    def ranking_prompt(self, user: int, history: np.ndarray) -> Prompt:
        """Write the prompt from which the items of one user are ranked."""
        raise NotImplementedError

    def embed_prompts(self, prompts: Sequence[Prompt]) -> Prompts:
        """Embed B prompts for the backbone."""
        tokens, keep = padded([prompt.tokens for prompt in prompts], self.device)
        return Prompts(self.backbone.embed(tokens), keep)

    def decoder(self, trie: Trie) -> TextTrieDecoder:
        """The decoder of searches in ``trie``, with the current weights."""
        raise NotImplementedError

    def level_tokens(self) -> list[torch.Tensor]:
        """Token of each code, int64 [K] for each level."""
        return [getattr(self, f"tokens_{level}") for level in range(self.index.levels)]

    # -- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def check_values(cls, config: dict) -> None:
        super().check_values(config)
        if config["item_index"] == "cid" and config["quantizer"] != "cid":  # None is not the default of P5 and VIP5, but rqvae
            raise UserError(f"item_index is cid, which reads the semantic IDs of quantizer: cid, but quantizer is "
                            f"{config['quantizer']}; set quantizer to cid, or item_index to codes.")

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        return config["item_index"] != "random_digits"

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        ids = self.semantic_ids
        return {
            "items": self.index.fingerprint(self.item_tokens[1:]),
            "backbone": self.backbone.fingerprint,
            "bundle": ids.bundle.name if ids and ids.bundle else None,
        }

    def load_other_parameter(self, para: dict | None) -> None:
        theirs, ours = para or {}, self.other_parameter()
        if theirs.get("items") != ours["items"]:
            raise UserError(
                "The checkpoint was trained on other items, or on other IDs of them; use the dataset, features, item_index, "
                "seed and semantic-ID options it was trained with."
            )
        if theirs.get("backbone") != ours["backbone"]:
            raise self._other_backbone()

    def _other_backbone(self) -> UserError:
        return UserError(
            f"The checkpoint was trained with another backbone than {self.config['backbone']}, or with one of another "
            "vocabulary; use the backbone and the item texts it was trained with."
        )

    def saved_options(self) -> dict:
        return self.backbone.saved_options()

    def state_dict(self, *args, **kwargs):
        """The weights, without those of a pretrained backbone that are not trained: a checkpoint of LoRA is small."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in self._frozen_weights():
            state.pop(prefix + name, None)
        return state

    def load_state_dict(self, state_dict, *args, **kwargs):
        frozen = {name: weight for name, weight in self._frozen_weights().items() if name not in state_dict}
        return super().load_state_dict({**state_dict, **frozen}, *args, **kwargs)

    def _frozen_weights(self) -> dict[str, torch.Tensor]:
        """Weights that a checkpoint leaves out, because they are in the files of the backbone."""
        if self.config["backbone"] == TINY:
            return {}
        named = self.backbone.model.named_parameters(prefix="backbone.model", remove_duplicate=False)
        return {name: weight.detach() for name, weight in named if not weight.requires_grad}

    # -- training -----------------------------------------------------------------------------------------------------

    def loss_parts(self, interaction) -> list[Callable[[], torch.Tensor]]:
        """See :class:`WindowedRecommender`. On a CPU a batch is one part: dropout of the backbones draws from torch's
        generator, whose order several threads would change."""
        samples = self.training_samples(*self._rows(interaction), interaction[self.POS_ITEM_ID].tolist())
        counts = [len(sample.response) for sample in samples]
        if self.averages_samples:
            weights = [1 / (len(samples) * n) for n in counts]
        else:
            weights = [1 / mean_over_processes(sum(counts))] * len(samples)
        if self.device.type == "cpu":
            return [partial(self._loss, samples, weights)]
        lengths = torch.tensor([len(sample.prompt.tokens) + len(sample.response) for sample in samples])
        parts = split_batch(lengths, self.budget.pass_positions)[::-1]  # longest first
        return [
            partial(self._loss, [samples[i] for i in part], [weights[i] for i in part])
            for part in map(torch.Tensor.tolist, parts)
        ]

    def _loss(self, samples: list[Sample], weights: list[float]) -> torch.Tensor:
        """Cross-entropy of the tokens of the responses, each with the weight of its sample."""
        prompts = self.embed_prompts([sample.prompt for sample in samples])
        responses, keep = padded([sample.response for sample in samples], self.device)
        logits = self.backbone.logits(self.backbone.states(prompts, responses, keep)).float()  # [n, V]
        loss = F.cross_entropy(logits, responses[keep], reduction="none")
        return (loss * torch.tensor(weights, device=self.device).unsqueeze(1).expand_as(keep)[keep]).sum()

    def _rows(self, interaction) -> tuple[list[int], list[np.ndarray]]:
        """Users and histories of an interaction; user 0 if it has none."""
        items, length = interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].tolist()
        users = interaction[self.USER_ID].tolist() if self.USER_ID in interaction else [0] * len(length)
        return users, [row[:n] for row, n in zip(items, length)]

    # -- ranking ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @in_eval_precision
    def rank(
        self, interaction, trie: Trie | None = None, beams: int | None = None, excluded: torch.Tensor | None = None
    ) -> Ranking:
        """The items that ``beams`` beams find in ``trie`` for each user, best first; scores are log P(ID | history) / L.

        Args:
            trie: the items to rank; None for all.
            beams: W; None for ``num_beams``.
            excluded: int64 [B, S], items to leave out, padded with 0.
        """
        trie, beams = trie or self.trie, beams or self.beams
        decoder = self.decoder(trie)

        def rank_part(prompts: Prompts, rows: torch.Tensor) -> Ranking:
            left_out = None if excluded is None else excluded[rows.to(excluded.device)]
            return beam_search(decoder, self.backbone.memory(prompts), beams, left_out)

        ranked, order = self._in_parts(interaction, rank_part, beams)
        return Ranking.joined(ranked, order)

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores of all items [B, N]; see :func:`score_matrix`."""
        return score_matrix(self.rank(interaction, excluded=self.excluded(interaction)), self.n_items)

    def predict(self, interaction) -> torch.Tensor:
        """Exact score of one item per sample [B]; see :meth:`item_scores`."""
        return self.item_scores(interaction, interaction[self.ITEM_ID].unsqueeze(1))[:, 0]

    @torch.no_grad()
    @in_eval_precision
    def item_scores(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """log P(ID | history) / L of given items [B, C]; -inf for the padding 0."""
        decoder, items = self.decoder(self.trie), items.to(self.device)

        def score_part(prompts: Prompts, rows: torch.Tensor) -> torch.Tensor:
            return candidate_scores(decoder, self.backbone.memory(prompts), items[rows.to(items.device)])

        scores, order = self._in_parts(interaction, score_part, items.shape[1])
        return torch.cat(scores)[order]

    def _in_parts(self, interaction, function: Callable, beams: int) -> tuple[list, torch.Tensor]:
        """Call ``function(prompts, rows)`` for parts of the users, longest prompts first.

        Returns:
            The results, and the order that sorts their rows as in ``interaction``.
        """
        prompts = [self.ranking_prompt(user, history) for user, history in zip(*self._rows(interaction))]
        longest_first = torch.tensor([len(prompt.tokens) for prompt in prompts]).argsort(descending=True, stable=True)
        parts = longest_first.split(self._users_at_once(beams, len(prompts[longest_first[0]].tokens)))
        results = [function(self.embed_prompts([prompts[i] for i in part.tolist()]), part) for part in parts]
        return results, longest_first.argsort().to(self.device)

    def _users_at_once(self, beams: int, prompt: int) -> int:
        """Number of users ranked together, so that logits, keys and values fit into memory."""
        logits = beams * (self.backbone.words + len(self.backbone.added))
        if self.device.type == "cpu":
            return max(1, min(64, MAX_LOGITS // logits))
        config = self.backbone.model.config
        layers, width = config.num_hidden_layers, config.hidden_size
        numbers = 3 * logits + 4 * layers * width * (prompt + beams * self.index.levels) + 8 * beams * width
        return count_that_fits(numbers, self.device)

    # -- for Recommender ----------------------------------------------------------------------------------------------

    def restriction(self, allowed: np.ndarray | None) -> Trie:
        return self.trie if allowed is None else Trie(self.index.codes[allowed], allowed).to(self.device)

    def with_top(self, k: int) -> "TextToTextRecommender":
        other = copy.copy(self)
        other.beams = max(k, self.beams)
        return other

    def best_items(self, interaction, k: int, restriction: Trie, excluded: torch.Tensor | None = None) -> Ranking:
        return self.rank(interaction, restriction, max(self.beams, k), excluded)
