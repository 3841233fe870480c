"""VIP5: P5 with visual tokens after each item, and adapters in a frozen backbone.

Shapes: B prompts, S positions, N items including the padding, F feature width, s visual slots of an item, D model width.
"""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.baselines.text_to_text.backbones import Prompts, padded
from recbole_macrec.baselines.text_to_text.p5 import P5, STD
from recbole_macrec.baselines.text_to_text.whole_words import Prompt, Sample
from recbole_macrec.config.schema.models import VIP5Options
from recbole_macrec.config.schema.text_to_text import VIP5_TASKS
from recbole_macrec.semantic_ids.order import token_order, token_ranks
from recbole_macrec.semantic_ids.rows import standardized
from recbole_macrec.utils.modules import add_derived_buffer

CANDIDATES = 100  # items listed in a direct prompt, the target among them
CATEGORIES = 16  # rows of the category embedding; 0 is text, 1 visual
RANKING = "user_{user} has taken the items {history} one after the other . Which item follows ?"
WORDINGS = {
    "next": (
        "user_{user} bought {history} ; which item comes next ?",
        "Given the purchases {history} of user_{user} , predict the next item :",
        "After {history} , what will user_{user} buy ?",
        "The history of user_{user} is {history} . Recommend one more item :",
        "Continue the list {history} of user_{user} :",
        "Which item should be shown to user_{user} , who has {history} already ?",
    ),
    "yes_no": (
        "user_{user} bought {history} . Will user_{user} buy {candidate} next ?",
        "Is {candidate} the next item after {history} for user_{user} ?",
    ),
    "direct": (
        "Which of the items {candidates} would user_{user} choose ?",
        "Pick the best item for user_{user} from {candidates} :",
        "From the candidates {candidates} , recommend one to user_{user} :",
        "user_{user} looks at {candidates} . Which one fits ?",
        "Choose an item of {candidates} for user_{user} :",
    ),
}


class Adapter(nn.Module):
    """``module`` followed by y + W_up gelu(W_down y), which starts as the identity (W_up = 0)."""

    def __init__(self, module: nn.Module, width: int, bottleneck: int):
        super().__init__()
        self.module, self.down, self.up = module, nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.module(x)
        return y + self.up(F.gelu(self.down(y)))


class VisualTokens(nn.Module):
    """Embeddings of an item's visual slots: rmsnorm of an MLP (F -> s D/2 -> s D, tanh) of its feature."""

    def __init__(self, features: int, slots: int, width: int):
        super().__init__()
        self.slots = slots
        self.layers = nn.Sequential(
            nn.Linear(features, slots * width // 2), nn.Tanh(), nn.Linear(slots * width // 2, slots * width)
        )
        self.norm = nn.Parameter(torch.ones(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., F] as [..., s, D]."""
        y = self.layers(features).unflatten(-1, (self.slots, -1))
        return F.rms_norm(y, y.shape[-1:], self.norm, 1e-6)


class VIP5(P5):
    """VIP5 (Geng et al., "VIP5: Towards Multimodal Foundation Models for Recommendation", Findings of EMNLP 2023, arXiv
    2305.14302).

    Each item in a prompt is followed by visual slots, whose embeddings are computed from the item's visual feature. Every
    position also gets a category embedding: text or visual. The backbone is frozen; adapters after its attentions and
    feed-forward layers, its layer norms, the rows of added tokens and the new modules are trained.

    ``vip5_tasks`` chooses the training tasks: ``next`` item; ``yes_no``, whether a given item is the next one; and ``direct``,
    the target among 100 listed items. Every training position is a sample of each task.
    """

    options = VIP5Options
    whole_words = 1024

    @classmethod
    def wordings(cls) -> Sequence[str]:
        return [RANKING, *(wording for task in VIP5_TASKS for wording in WORDINGS[task])]

    @classmethod
    def reads_features(cls, config) -> bool:
        return True

    @staticmethod
    def visual_slots(config) -> int:
        return config["visual_tokens"]

    def build_extras(self, config, dataset) -> None:
        super().build_extras(config, dataset)
        self.tasks = config["vip5_tasks"]
        width = self.backbone.table.embedding_dim
        features = visual_features(dataset, config["visual_modality"], self.item_tokens)
        add_derived_buffer(self, "features", features)
        self.visual = VisualTokens(features.shape[1], self.writer.slots, width)
        self.category = nn.Embedding(CATEGORIES, width)
        nn.init.normal_(self.category.weight, std=STD)
        add_adapters(self.backbone.model, width, config["adapter_width"] or max(1, width // 8))
        self.by_token = (1 + token_order(self.item_tokens[1:])).tolist()  # so that draws do not depend on RecBole's numbers
        self.rank_of = {item: rank for rank, item in enumerate(self.by_token)}

    def trained_parameters(self, config) -> list[nn.Parameter]:
        model = self.backbone.model
        norms = [parameter for name, parameter in model.named_parameters() if "layer_norm" in name]
        adapters = [module for module in model.modules() if isinstance(module, Adapter)]
        return [
            *norms,
            *(weight for adapter in adapters for part in (adapter.down, adapter.up) for weight in part.parameters()),
        ]

    def training_samples(self, users: Sequence[int], histories: Sequence[np.ndarray], targets: Sequence[int]) -> list[Sample]:
        samples = []
        for task in self.tasks:
            drawn = torch.randint(len(WORDINGS[task]), (len(users),)).tolist()
            for wording, user, history, target in zip(drawn, users, histories, targets):
                samples.append(self._sample(task, WORDINGS[task][wording], user, history.tolist(), target))
        return samples

    def _sample(self, task: str, wording: str, user: int, history: list[int], target: int) -> Sample:
        if task == "next":
            return Sample(self.writer.write(wording, user, history), self.writer.response(target))
        if task == "yes_no":
            yes = bool(torch.randint(2, ()))
            candidate = target if yes else self._others(target, 1)[0]
            answer = self.backbone.encode("yes" if yes else "no")
            return Sample(self.writer.write(wording, user, history, [candidate]), [*answer, self.writer.end])
        candidates = self._others(target, min(CANDIDATES, self.n_items - 1) - 1)
        candidates.insert(int(torch.randint(len(candidates) + 1, ())), target)
        return Sample(self.writer.write(wording, user, history, candidates), self.writer.response(target))

    def _others(self, target: int, count: int) -> list[int]:
        """Random distinct items other than ``target``."""
        drawn = 1 + self.rank_of[target] + torch.randperm(len(self.by_token) - 1)[:count]
        return [self.by_token[rank % len(self.by_token)] for rank in drawn.tolist()]

    def ranking_prompt(self, user: int, history: np.ndarray) -> Prompt:
        return self.writer.write(RANKING, user, history.tolist())

    def embed_prompts(self, prompts: Sequence[Prompt]) -> Prompts:
        embeddings, keep = super().embed_prompts(prompts)
        items, _ = padded([prompt.items for prompt in prompts], self.device)
        words, _ = padded([prompt.words for prompt in prompts], self.device)
        is_visual = items > 0
        slots = self.visual(self.features[items[is_visual]])  # [visual positions, s, D]
        place = torch.arange(len(slots), device=self.device) % self.writer.slots  # the slots of an item follow each other
        own = slots[torch.arange(len(slots), device=self.device), place] + self.whole_word(
            words[is_visual].clamp(max=self.whole_words - 1)
        )
        embeddings = embeddings.masked_scatter(is_visual.unsqueeze(-1), own.to(embeddings.dtype))
        return Prompts(embeddings + self.category(is_visual.long()), keep)


def visual_features(dataset, modality: str, item_tokens: Sequence[str]) -> np.ndarray:
    """Standardized features of the items, float32 [N, F]; row 0 is the padding. They do not depend on the order of the
    items."""
    features = dataset.feature_tables([modality])[modality].select(sorted(item_tokens[1:]))
    features = standardized(features)
    return np.vstack([np.zeros_like(features[:1]), features[token_ranks(item_tokens[1:])]])


def add_adapters(model, width: int, bottleneck: int) -> None:
    """Put an adapter after every attention and feed-forward layer of a T5, before the residual."""
    for stack in (model.get_encoder(), model.get_decoder()):
        for layer in (layer for block in stack.block for layer in block.layer):
            if hasattr(layer, "DenseReluDense"):
                layer.DenseReluDense = Adapter(layer.DenseReluDense, width, bottleneck)
            else:
                attention = layer.SelfAttention if hasattr(layer, "SelfAttention") else layer.EncDecAttention
                attention.o = Adapter(attention.o, width, bottleneck)
