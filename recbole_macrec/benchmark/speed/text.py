"""Speed of the text-to-text models, and of their ranking compared with transformers' constrained ``generate`` with the same
weights."""
import json
import sys

import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import Subject, build_subject, in_own_process, median_seconds, train_first
from recbole_macrec.benchmark.speed.text_reference import TextReference
from recbole_macrec.benchmark.speed.train import first_batches
from recbole_macrec.utils.hardware import peak_host_memory

TEXT_MODELS = ("P5", "VIP5", "LCRec")
TOP = 10


def text(args) -> dict:
    """Return for each model training samples/s, users/s at ranking, users/s of the reference and peak memory.

    Every model is measured in a process of its own, so that its peak memory is its own, and printed to stderr as soon as it is
    measured.
    """
    measured = {}
    for name in args.models:
        measured[name] = in_own_process(measure, name, args)
        print(json.dumps({name: measured[name]}), file=sys.stderr, flush=True)
    return measured


def measure(name: str, args) -> dict:
    """Measure one model; a sample of training is a target with the samples of all tasks."""
    import recbole_macrec  # noqa: F401  registers the models in a new process

    subject = build_subject(
        args.dataset, args.data_path, args.modality, model=name, backbone=args.backbone, train_batch_size=args.batch
    )
    batches = first_batches(subject, args.timed_steps)
    samples = sum(len(batch) for batch in batches)
    train_rate = samples / median_seconds(lambda: subject.trainer.train_steps(batches), args.repeats)
    train_first(subject, args.training_steps)  # scores of an untrained model hardly differ
    return {
        "backbone": f"{args.backbone} (random weights, for the path only)" if args.backbone == "tiny" else args.backbone,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "trained_parameters": sum(p.numel() for p in subject.model.parameters() if p.requires_grad),
        "training_samples_per_s": round(train_rate, 2),
        **ranking(subject, args),
        "peak_memory_mib": peak_memory(subject.model.device),
    }


def ranking(subject: Subject, args) -> dict:
    """Measure the ranking of model and reference; ``same_lists`` is the share of users with the same first items, in order."""
    model = subject.model.eval()
    rows = np.random.default_rng(0).permutation(len(subject.test_data._dataset))
    users = subject.test_data._dataset[rows[: args.users]].to(model.device)
    some = users[: args.reference_users]
    reference = TextReference(model)

    def reference_rankings():
        parts = range(0, len(some), args.reference_batch)
        return [row for begin in parts for row in reference.rank(some[begin : begin + args.reference_batch], model.beams)]

    expected = np.array(reference_rankings())[:, :TOP]
    found = model.rank(some).items[:, :TOP].cpu().numpy()
    rate = len(users) / median_seconds(lambda: model.rank(users), args.repeats)
    reference_rate = len(some) / median_seconds(reference_rankings, args.reference_repeats, warmup=0)
    return {
        "users_per_s": round(rate, 2),
        "reference_users_per_s": round(reference_rate, 2),
        "speedup": round(rate / reference_rate, 2),
        "same_lists": round(float((found == expected).all(1).mean()), 5),
    }


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in MiB: of the GPU, or of this process."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_host_memory()
    return round(peak / 2**20, 1)
