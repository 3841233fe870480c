"""Tiny pretrained models with random weights, saved like real ones. Large weights make errors in attention visible."""
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

WORDS = "red blue green pen ink paper wool thread soft hard for craft and paint brush of the".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": len(WORDS) + len(SPECIAL), "max_position_embeddings": 64, "initializer_range": 0.3}
IMAGE = {**SIZES, "image_size": 16, "patch_size": 4, "initializer_range": 0.3}


def _bert(folder: Path) -> None:
    BertModel(BertConfig(**TEXT)).save_pretrained(folder)
    _tokenizer("[CLS] $A [SEP]", ["[CLS]", "[SEP]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
               model_max_length=64).save_pretrained(folder)


def _roberta(folder: Path) -> None:
    RobertaModel(RobertaConfig(**TEXT, pad_token_id=0)).save_pretrained(folder)
    _tokenizer("<s> $A </s>", ["<s>", "</s>"], pad_token="[PAD]", cls_token="<s>", sep_token="</s>").save_pretrained(folder)


def _llama(folder: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(folder)  # as published: with a head, without a padding token
    _tokenizer("<s> $A", ["<s>"], bos_token="<s>").save_pretrained(folder)


def _t5(folder: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes, vocab_size=TEXT["vocab_size"], initializer_factor=3.0)).save_pretrained(folder)
    _tokenizer("$A </s>", ["</s>"], pad_token="[PAD]", eos_token="</s>").save_pretrained(folder)


def _tokenizer(template: str, added: list[str], **names) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]",
                                   model_input_names=["input_ids", "attention_mask"], **names)


def _clip(folder: Path) -> None:
    CLIPModel(CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=8)).save_pretrained(folder)
    _processor(folder)


def _siglip(folder: Path) -> None:
    SiglipModel(SiglipConfig(text_config=TEXT, vision_config=IMAGE)).save_pretrained(folder)
    _processor(folder)


def _vit(folder: Path) -> None:
    ViTModel(ViTConfig(**IMAGE)).save_pretrained(folder)
    _processor(folder)


def _dino(folder: Path) -> None:
    sizes = {key: value for key, value in IMAGE.items() if key != "intermediate_size"}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    _processor(folder)


def _processor(folder: Path) -> None:
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)


MAKERS = {"bert": _bert, "roberta": _roberta, "llama": _llama, "t5": _t5, "clip": _clip, "siglip": _siglip,
          "vit": _vit, "dino": _dino}


def make(name: str, folder: Path) -> Path:
    """Save the tiny model ``name`` to ``folder/name``, always with the same weights, and return that path."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        MAKERS[name](folder / name)
    return folder / name
