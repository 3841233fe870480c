"""Exact decoding: equal to scoring every ID on its own, its speed, and how often the beam agrees with it."""
import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import median_seconds, prepare
from recbole_macrec.generation.decoding.search import sequence_log_probs

TOP = 10


@torch.no_grad()
def exact(args) -> dict:
    """Users ranked exactly a second, and the share of users whose beam top-10 is the exact one."""
    subject = prepare(args.dataset, args.data_path, args.modality, train_batch_size=args.batch)
    model = subject.model
    with torch.enable_grad():
        subject.trainer.train_steps(subject.train_data, args.training_steps)
    model.eval()
    rows = np.random.default_rng(0).permutation(len(subject.test_data._dataset))[: args.exact_users or None]
    users = subject.test_data._dataset[rows].to(model.device)
    beam = model.rank(users)["fused"].items[:, :TOP]
    model.decode = "exact"
    ranking = model.rank(users)["fused"]
    seconds = median_seconds(lambda: model.rank(users), args.repeats, warmup=0)
    same = (ranking.items[:, :TOP] == beam).all(1).float().mean().item()
    return {
        "users_per_s": round(len(users) / seconds, 3),
        "beam_top10_exact_share": round(same, 4),
        "brute_force_difference": brute_force_difference(model, users[:2], ranking),
    }


def brute_force_difference(model, users, ranking, at_once: int = 512) -> float:
    """Largest difference to every ID teacher-forced on its own."""
    modality = model.modalities[0]
    codes = getattr(model, f"codes_{modality}")
    memory = model.encode_history([modality], model.histories(users))
    worst = 0.0
    for begin in range(1, model.n_items, at_once):
        part = torch.arange(begin, min(begin + at_once, model.n_items), device=codes.device)
        scores = sequence_log_probs(
            model.network, model.vocabulary, modality, memory, codes[part].expand(len(users), -1, -1)
        )
        for user in range(len(users)):
            exact_scores = torch.empty(model.n_items, device=codes.device)
            exact_scores[ranking.items[user]] = ranking.scores[user]
            worst = max(worst, (scores[user] - exact_scores[part]).abs().max().item())
    return worst
