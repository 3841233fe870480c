"""Our transformer against transformers' T5 on the same weights, and its step-by-step decoding against teacher forcing."""
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recbole_macrec.generation.transformer import Transformer, TransformerSettings

VOCABULARY = 50
SETTINGS = TransformerSettings(d_model=16, d_ff=32, num_heads=3, d_kv=8, encoder_layers=2, decoder_layers=3)


def t5_pair(seed: int) -> tuple[Transformer, T5ForConditionalGeneration]:
    """A random T5 and ours with its weights."""
    torch.manual_seed(seed)
    s = SETTINGS
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=s.d_model,
            d_ff=s.d_ff,
            d_kv=s.d_kv,
            num_heads=s.num_heads,
            num_layers=s.encoder_layers,
            num_decoder_layers=s.decoder_layers,
            dropout_rate=s.dropout,
            feed_forward_proj="relu",
            tie_word_embeddings=True,
            decoder_start_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for p in t5.parameters():  # larger than initial weights, so that a mistake shows
            p.add_(0.3 * torch.randn_like(p))
    ours = Transformer(VOCABULARY, s).eval()
    names = {"q": "query", "k": "key", "v": "value", "o": "out", "wi": "up", "wo": "down"}
    layers = {"SelfAttention": "self_attention", "EncDecAttention": "cross_attention", "DenseReluDense": "feed_forward"}
    state = {"table.weight": t5.shared.weight}
    for half in ("encoder", "decoder"):
        stack = getattr(t5, half)
        state[f"{half}_norm.weight"] = stack.final_layer_norm.weight
        state[f"{half}_bias.weight"] = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        for i, block in enumerate(stack.block):
            for layer in block.layer:
                inner = next(name for name in layers if hasattr(layer, name))
                state[f"{half}.{i}.{layers[inner]}.norm.weight"] = layer.layer_norm.weight
                for theirs, name in names.items():
                    if hasattr(getattr(layer, inner), theirs):
                        weight = getattr(getattr(layer, inner), theirs).weight
                        state[f"{half}.{i}.{layers[inner]}.{name}.weight"] = weight
    ours.load_state_dict(state)  # strict: every weight of ours has its counterpart
    return ours, t5


def source(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three sources of up to 70 tokens, long enough for the logarithmic buckets, two of them padded."""
    tokens = torch.randint(1, VOCABULARY, (3, 70), generator=torch.Generator().manual_seed(seed))
    keep = torch.arange(70) < torch.tensor([70, 40, 3]).unsqueeze(1)
    return tokens.masked_fill(~keep, 0), keep


@pytest.mark.parametrize("seed", [0, 1])
def test_logits_equal_t5(seed):
    ours, t5 = t5_pair(seed)
    tokens, keep = source(seed)
    target = torch.randint(1, VOCABULARY, (3, 5))
    with torch.no_grad():
        theirs = t5(input_ids=tokens, attention_mask=keep.long(), decoder_input_ids=target).logits
        memory = ours.encode(tokens, keep)
        mine = ours.logits(ours.decode(target.unsqueeze(1), memory))[:, 0]
    assert theirs.std() > 0.1
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_gradients_equal_t5():
    ours, t5 = t5_pair(3)
    tokens, keep = source(3)
    target = torch.randint(1, VOCABULARY, (3, 4))
    t5(input_ids=tokens, attention_mask=keep.long(), decoder_input_ids=target).logits.square().mean().backward()
    ours.logits(ours.decode(target.unsqueeze(1), ours.encode(tokens, keep))).square().mean().backward()
    torch.testing.assert_close(ours.table.weight.grad, t5.shared.weight.grad, atol=1e-4, rtol=1e-3)
    theirs = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours.encoder_bias.weight.grad, theirs, atol=1e-4, rtol=1e-3)


def test_groups_do_not_see_each_other():
    ours, _ = t5_pair(0)
    tokens, keep = source(0)
    target = torch.randint(1, VOCABULARY, (3, 4, 5))  # four groups of each user
    with torch.no_grad():
        memory = ours.encode(tokens, keep)
        together = ours.decode(target, memory)
        for g in range(4):
            torch.testing.assert_close(together[:, g], ours.decode(target[:, g : g + 1], memory)[:, 0], atol=1e-5, rtol=0)


def test_steps_equal_teacher_forcing():
    ours, _ = t5_pair(0)
    tokens, keep = source(0)
    target = torch.randint(1, VOCABULARY, (3, 4, 5))
    with torch.no_grad():
        memory, past = ours.encode(tokens, keep), None
        whole = ours.decode(target, memory)
        for t in range(5):
            hidden, past = ours.step(target[..., t], memory, past)
            torch.testing.assert_close(hidden, whole[:, :, t], atol=1e-5, rtol=0)


def test_padding_changes_nothing():
    ours, _ = t5_pair(0)
    tokens, keep = source(0)
    target = torch.randint(1, VOCABULARY, (3, 1, 5))
    with torch.no_grad():
        padded = ours.decode(target, ours.encode(tokens, keep))[2]
        alone = ours.decode(target[2:], ours.encode(tokens[2:, :3], keep[2:, :3]))[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)
