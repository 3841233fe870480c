"""Speed of beam search compared with ``generate`` of transformers, with the same weights and users."""
from collections.abc import Iterator

import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import T5, build_subject, median_seconds, train_first
from recbole_macrec.benchmark.speed.reference import WORDS, Reference
from recbole_macrec.utils.hardware import has_fast_bf16

TOP = 10
PRECISIONS = ("fp32", "bf16")


def decode(args) -> dict:
    """Return users ranked per second, and the share of top-10 positions with the same item as the reference.

    The reference is measured twice: with default settings, and in a process that keeps freed memory, as our trainer does.
    """
    subject = build_subject(args.dataset, args.data_path, args.modality, train_batch_size=args.batch, **T5)
    model = subject.model
    rows = np.random.default_rng(0).permutation(len(subject.test_data._dataset))
    users = subject.test_data._dataset[rows[: args.users]].to(model.device)
    reference_users = users[: args.reference_users]
    history, length = reference_users[model.ITEM_SEQ], reference_users[model.ITEM_SEQ_LEN]

    def reference_rankings(reference):
        batches = zip(history.split(args.reference_batch), length.split(args.reference_batch))
        return [row for batch in batches for row in reference.rank(*batch, model.ranking.num_beams)]

    def reference_rate():
        reference = Reference(model, words=WORDS).eval()
        return len(reference_users) / median_seconds(lambda: reference_rankings(reference), args.reference_repeats, warmup=0)

    default_rate = reference_rate()
    train_first(subject, args.training_steps)  # scores of an untrained model hardly differ
    model.eval()
    expected = np.array(reference_rankings(Reference(model, levelwise=True).eval()))[:, :TOP]
    same_allocator = reference_rate()
    result = dict.fromkeys(PRECISIONS)
    for name, rate in rates_by_precision(model, users, args.repeats):
        result[name] = {
            "users_per_s": round(rate, 2),
            "reference_users_per_s": round(same_allocator, 2),
            "speedup": round(rate / same_allocator, 2),
            "default_allocator": {
                "reference_users_per_s": round(default_rate, 2),
                "speedup": round(rate / default_rate, 2),
            },
            "top10_agreement": round(float((first_items(model, reference_users).numpy() == expected).mean()), 5),
        }
    result["decoder_only"] = decoder_only(args, users, same_allocator)
    return result


def decoder_only(args, users, reference: float) -> dict:
    """Measure the decoder-only network with the same number of beams.

    Args:
        reference: users per second of T5's ``generate``.
    """
    subject = build_subject(args.dataset, args.data_path, args.modality, decode="beam")
    train_first(subject, args.training_steps)
    subject.model.eval()
    result = dict.fromkeys(PRECISIONS)
    for name, rate in rates_by_precision(subject.model, users, args.repeats):
        result[name] = {"users_per_s": round(rate, 2), "speedup": round(rate / reference, 2)}
    return result


def rates_by_precision(model, users, repeats: int) -> Iterator[tuple[str, float]]:
    """Yield each precision that this hardware supports, and the users ranked per second with it.

    ``model.eval_precision`` stays set until the next one is yielded.
    """
    for name in PRECISIONS:
        if name == "fp32" or has_fast_bf16(model.device):
            model.eval_precision = name
            yield name, len(users) / median_seconds(lambda: first_items(model, users), repeats)


def first_items(model, users) -> torch.Tensor:
    """Return the first TOP items of every user, int64 [B, TOP] on the CPU."""
    return model.rank(users)["fused"].items[:, :TOP].cpu()
