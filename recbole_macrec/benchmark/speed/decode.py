"""Beam search: ours against ``generate``, on the same weights and users."""
import numpy as np

from recbole_macrec.benchmark.speed.measure import median_seconds, prepare
from recbole_macrec.benchmark.speed.reference import WORDS, Reference
from recbole_macrec.hardware import bf16_pays

TOP = 10


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
    subject.trainer.train_steps(subject.train_data, args.training_steps)  # untrained scores are nearly all alike
    model.eval()
    expected = np.array(reference_rankings(Reference(model, levelwise=True).eval()))[:, :TOP]
    same_allocator = reference_rate()
    result = {}
    for name in ("fp32", "bf16"):
        if name == "bf16" and not bf16_pays(model.device):
            result[name] = None  # this hardware computes bf16 slower than fp32
            continue

        model.eval_precision = name

        def rank(batch):
            return model.rank(batch)["fused"].items[:, :TOP].cpu()

        rate = len(users) / median_seconds(lambda: rank(users), args.repeats)
        result[name] = {
            "users_per_s": round(rate, 2),
            "reference_users_per_s": round(same_allocator, 2),
            "speedup": round(rate / same_allocator, 2),
            "default_allocator": {
                "reference_users_per_s": round(as_it_comes, 2),
                "speedup": round(rate / as_it_comes, 2),
            },
            "top10_agreement": round(float((rank(few).numpy() == expected).mean()), 5),
        }
    return result
