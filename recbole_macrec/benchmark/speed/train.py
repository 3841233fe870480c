"""Speed of training with one pass per target and per user, compared with padded T5 with the released vocabulary and ours."""
import copy
from itertools import islice
from typing import Any

import torch

from recbole_macrec.benchmark.speed.measure import T5, build_subject, median_seconds
from recbole_macrec.benchmark.speed.reference import WORDS, Reference

PER_USER = {
    "per_user": {**T5, "training": "per_user"},
    "decoder_only": {},
}
USERS = 128  # batch size of per-user training


def train(args) -> dict:
    """Return training samples (targets) per second, after comparing both losses on the same batches without dropout."""
    options = {**T5, "train_batch_size": args.batch}
    result: dict[str, Any] = {"loss_difference": loss_difference(args, options)}
    subject = build_subject(args.dataset, args.data_path, args.modality, **options)
    model, trainer = subject.model, subject.trainer
    batches = first_batches(subject, args.timed_steps)
    samples = sum(len(batch) for batch in batches)
    references = {"released": Reference(model, words=WORDS), "small_vocabulary": Reference(model)}
    rate = samples / median_seconds(lambda: trainer.train_steps(batches), args.repeats)
    result["samples_per_s"] = round(rate, 2)
    for name, reference in references.items():
        step = reference_step(reference, subject)
        seconds = median_seconds(lambda: [step(batch) for batch in batches], args.reference_repeats)
        reference_rate = samples / seconds
        result[name] = {"samples_per_s": round(reference_rate, 2), "speedup": round(rate / reference_rate, 2)}
    for name, settings in PER_USER.items():
        user_rate = per_user_rate(args, settings)
        released = result["released"]["samples_per_s"]
        result[name] = {
            "samples_per_s": round(user_rate, 2),
            "over_per_target": round(user_rate / rate, 2),
            "over_released": round(user_rate / released, 2),
        }
    return result


def per_user_rate(args, settings: dict) -> float:
    """Return training targets per second with one pass per user."""
    subject = build_subject(args.dataset, args.data_path, args.modality, train_batch_size=USERS, **settings)
    batches = first_batches(subject, 2 * args.timed_steps)
    targets = sum(len(subject.model.windows(batch).target_items()) for batch in batches)
    return targets / median_seconds(lambda: subject.trainer.train_steps(batches), args.repeats)


def first_batches(subject, count: int) -> list:
    """Return the first ``count`` training batches, on the device of the model."""
    loader = subject.trainer.training_loader(subject.train_data)
    return [batch.to(subject.model.device) for batch in islice(loader, count)]


def reference_step(reference: Reference, subject):
    """Return a function that trains the reference on a batch, with our optimizer settings, and returns the loss."""
    model, config = subject.model, subject.config
    optimizer = torch.optim.AdamW(
        reference.t5.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"]
    )
    reference.t5.train()

    def step(batch) -> float:
        optimizer.zero_grad()
        loss = reference.loss(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], batch[model.POS_ITEM_ID])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.t5.parameters(), **config["clip_grad_norm"])
        optimizer.step()
        return loss.item()

    return step


def loss_difference(args, options: dict) -> dict:
    """Return the largest and the mean difference between both losses over ``args.parity_steps`` steps."""
    subject = build_subject(args.dataset, args.data_path, args.modality, dropout_prob=0.0, **options)
    batches = first_batches(subject, args.parity_steps)
    step = reference_step(Reference(copy.deepcopy(subject.model), levelwise=True), subject)
    ours = torch.tensor([subject.trainer.train_steps([batch]) for batch in batches])
    theirs = torch.tensor([step(batch) for batch in batches])
    gap = (ours - theirs).abs()
    return {
        "steps": len(batches),
        "first_loss": round(ours[0].item(), 4),
        "last_loss": round(ours[-1].item(), 4),
        "largest": round(gap.max().item(), 6),
        "mean": round(gap.mean().item(), 6),
    }
