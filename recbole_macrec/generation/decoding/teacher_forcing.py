"""Exact scores of given IDs, position by position; the slow reference of the searches.

Shapes: B users, G IDs of a user, L levels, D model width.
"""
import torch

from recbole_macrec.generation.decoding.prior import with_prior
from recbole_macrec.generation.decoding.trie import Trie
from recbole_macrec.generation.network.decoder_only import DecoderOnly
from recbole_macrec.generation.network.memory import AnyMemory
from recbole_macrec.generation.network.transformer import Transformer
from recbole_macrec.generation.network.windows import decoder_input
from recbole_macrec.generation.vocabulary import Vocabulary


def sequence_log_probs(
    network: Transformer | DecoderOnly,
    vocabulary: Vocabulary,
    modality: str,
    memory: AnyMemory,
    codes: torch.Tensor,
    prior: torch.Tensor | None = None,
    softmax_trie: Trie | None = None,
) -> torch.Tensor:
    """Exact scores of given IDs, by teacher forcing.

    Args:
        codes: int64 [B, G, L], G IDs of each user.
        prior: their :func:`prior_log_probs`, float32 [B, G, L].
        softmax_trie: trie of the trained items: the softmax is over the children of a prefix in it. None: over all codes of a
            level.

    Returns:
        log P(ID | history) / L, float32 [B, G].
    """
    tokens = decoder_input(vocabulary.tokens(modality, codes), vocabulary.start[modality])
    hidden = network.decode(tokens, memory)  # [B, G, L, D]
    levels = codes.shape[-1]
    score = torch.zeros(codes.shape[:2], device=codes.device)
    node = None
    for level, (offset, size) in enumerate(zip(vocabulary.offsets[modality], vocabulary.sizes[modality])):
        logits, code = network.logits(hidden[:, :, level], offset, size).float().flatten(0, 1), codes[..., level].flatten()
        if softmax_trie is None:
            normaliser = logits.logsumexp(-1)
        else:
            normaliser = softmax_trie.log_normaliser(level, node if node is None else node.clamp(min=0), logits)
            node = softmax_trie.child(level, node, code)
        log_probs = (logits.gather(1, code.unsqueeze(1))[:, 0] - normaliser).view(score.shape)
        score += log_probs if prior is None else with_prior(log_probs, prior[..., level])
    return score / levels
