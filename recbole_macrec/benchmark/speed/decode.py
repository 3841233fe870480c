"""Beam search: ours against ``generate``, on the same weights and users."""
from collections.abc import Iterator

import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import median_seconds, prepare, train_first
from recbole_macrec.benchmark.speed.reference import WORDS, Reference
from recbole_macrec.utils.hardware import bf16_pays

TOP = 10
PRECISIONS = ("fp32", "bf16")


def decode(args) -> dict:
    """Users ranked a second, and the share of top-10 positions that hold the reference's item.

    The reference is measured twice: as it comes, and in a process that keeps freed memory, as ours does.
    """
    subject = prepare(args.dataset, args.data_path, args.modality, train_batch_size=args.batch)
    model = subject.model
    rows = np.random.default_rng(0).permutation(len(subject.test_data._dataset))
    users = subject.test_data._dataset[rows[: args.users]].to(model.device)
    few = users[: args.reference_users]
    history, length = few[model.ITEM_SEQ], few[model.ITEM_SEQ_LEN]

    def reference_rankings(reference):
        parts = zip(history.split(args.reference_batch), length.split(args.reference_batch))
        return [row for part in parts for row in reference.rank(*part, model.beams)]

    def reference_rate():
        reference = Reference(model, words=WORDS).eval()
        return len(few) / median_seconds(lambda: reference_rankings(reference), args.reference_repeats, warmup=0)

    as_it_comes = reference_rate()
    train_first(subject, args.training_steps)  # untrained scores are nearly all alike
    model.eval()
    expected = np.array(reference_rankings(Reference(model, levelwise=True).eval()))[:, :TOP]
    same_allocator = reference_rate()
    result = dict.fromkeys(PRECISIONS)
    for name, rate in rates(model, users, args.repeats):
        result[name] = {
            "users_per_s": round(rate, 2),
            "reference_users_per_s": round(same_allocator, 2),
            "speedup": round(rate / same_allocator, 2),
            "default_allocator": {
                "reference_users_per_s": round(as_it_comes, 2),
                "speedup": round(rate / as_it_comes, 2),
            },
            "top10_agreement": round(float((ranked(model, few).numpy() == expected).mean()), 5),
        }
    result["decoder_only"] = decoder_only(args, users, same_allocator)
    return result


def decoder_only(args, users, reference: float) -> dict:
    """Users that the other network ranks a second, with beams as wide; ``reference``: those of T5's ``generate``."""
    subject = prepare(args.dataset, args.data_path, args.modality, training_preset="decoder_only", decode="beam")
    train_first(subject, args.training_steps)
    subject.model.eval()
    result = dict.fromkeys(PRECISIONS)
    for name, rate in rates(subject.model, users, args.repeats):
        result[name] = {"users_per_s": round(rate, 2), "speedup": round(rate / reference, 2)}
    return result


def rates(model, users, repeats: int) -> Iterator[tuple[str, float]]:
    """Each precision that this hardware gains from, and the users ranked a second in it. ``model`` keeps that ``eval_precision`` until the next."""
    for name in PRECISIONS:
        if name == "fp32" or bf16_pays(model.device):
            model.eval_precision = name
            yield name, len(users) / median_seconds(lambda: ranked(model, users), repeats)


def ranked(model, users) -> torch.Tensor:
    """The first items of users, int64 [B, TOP] on the CPU."""
    return model.rank(users)["fused"].items[:, :TOP].cpu()
