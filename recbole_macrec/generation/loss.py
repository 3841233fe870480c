"""Training loss of generated IDs.

Shapes: n samples, L levels, K codes of a level, D model width.
"""
import torch
import torch.nn.functional as F

from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.id_table import IDTable
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.vocabulary import Vocabulary


def id_cross_entropy(
    network: Transformer | DecoderOnly,
    vocabulary: Vocabulary,
    modality: str,
    table: IDTable,
    trie: Trie | None,
    hidden: torch.Tensor,
    items: torch.Tensor,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of the codes of ``items``, averaged over levels and summed over samples.

    Args:
        table: the IDs of ``modality``.
        trie: the softmax of a level is over the codes that continue the target's prefix in this trie. None: over all codes of
            the level.
        hidden: states that predict the codes, [n, L, D].
        items: int64 [n].
        temperature: divides the logits (Wang et al., LETTER, CIKM 2024: below 1 it weights hard negatives more).
        smoothing: the target distribution is 1 - ``smoothing`` for the target's code plus ``smoothing`` spread evenly over all
            codes of the softmax.
    """
    codes, nodes = table.codes[items], table.nodes[items]  # [n, L]
    total = torch.zeros((), device=hidden.device)
    for level, (offset, size) in enumerate(zip(vocabulary.offsets[modality], vocabulary.sizes[modality])):
        logits = network.logits(hidden[:, level], offset, size).float() / temperature  # [n, K]
        if trie is None:
            total = total + F.cross_entropy(logits, codes[:, level], reduction="sum", label_smoothing=smoothing)
            continue
        expected = logits.gather(1, codes[:, level : level + 1])[:, 0]
        children = trie.child_logits(level, nodes[:, level - 1] if level else None, logits)  # [n, C]
        if smoothing:
            exists = children > -torch.inf
            expected = (1 - smoothing) * expected + smoothing * children.where(exists, 0).sum(1) / exists.sum(1)
        total = total + (children.logsumexp(1) - expected).sum()
    return total / table.levels
