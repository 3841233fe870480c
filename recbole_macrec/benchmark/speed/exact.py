"""Exact decoding: speed, agreement of beam search and certified ranking with it, and a comparison with brute force."""
import numpy as np
import torch

from recbole_macrec.benchmark.speed.measure import T5, Subject, build_subject, median_seconds, train_first
from recbole_macrec.generation.decoding.certified_search import CertifiedSearch
from recbole_macrec.generation.decoding.search import Ranking
from recbole_macrec.generation.decoding.teacher_forcing import sequence_log_probs

TOP = 10
ITEMS_AT_ONCE = 512  # items scored together by brute force


def exact(args) -> dict:
    """Measure both networks; the results of ``decoder_only`` are nested in those of the encoder-decoder."""
    own = build_subject(args.dataset, args.data_path, args.modality, train_batch_size=args.batch, **T5)
    result = measure_network(own, args)
    other = build_subject(args.dataset, args.data_path, args.modality)
    return result | {"decoder_only": measure_network(other, args)}


def measure_network(subject: Subject, args) -> dict:
    """Return users per second of exact, beam and certified ranking, and the share of users with the exact top 10."""
    model = subject.model
    train_first(subject, args.training_steps)
    model.eval()
    rows = np.random.default_rng(0).permutation(len(subject.test_data._dataset))
    users = subject.test_data._dataset[rows[: args.exact_users or None]].to(model.device)
    many_users = subject.test_data._dataset[rows[: args.users]].to(model.device)
    rankings, rates = {}, {}
    for decode in ("beam", "certified", "exact"):
        ranks = model.with_ranking(decode=decode)
        rankings[decode] = ranks.rank(users)["fused"]
        timed = users if decode == "exact" else many_users
        rates[decode] = round(len(timed) / median_seconds(lambda: ranks.rank(timed), args.repeats, warmup=0), 3)
    return {
        "users_per_s": rates["exact"],
        "beam_users_per_s": rates["beam"],
        "beam_top10_exact_share": round(same_top(rankings["beam"], rankings["exact"]), 4),
        "certified": {
            "users_per_s": rates["certified"],
            "top10_agreement": round(same_top(rankings["certified"], rankings["exact"]), 4),
            "prefixes_per_user": round(prefixes_per_user(model, users), 1),
        },
        "brute_force_difference": brute_force_difference(model, users[:2], rankings["exact"]),
    }


def same_top(ranking: Ranking, expected: Ranking) -> float:
    """Return the share of users whose first :data:`TOP` items are the same, in the same order."""
    return (ranking.items[:, :TOP] == expected.items[:, :TOP]).all(1).float().mean().item()


@torch.no_grad()
def prefixes_per_user(model, users) -> float:
    """Return the mean number of prefixes per user that certified ranking of the first ``TOP`` items expands."""
    modality = model.modalities[0]
    memory = model.encode_history(modality, model.histories(users))
    decoder = model.ranker.decoder(modality, model.tables[modality].trie, len(users) * TOP)
    search = CertifiedSearch(decoder, memory, None, model.ranking.certified_rows)
    search.top(TOP)
    return float(search.expanded.mean())


@torch.no_grad()
def brute_force_difference(model, users, ranking) -> float:
    """Return the largest difference between scores of ``ranking`` and the log-probabilities of IDs scored one by one."""
    modality = model.modalities[0]
    codes = model.tables[modality].codes
    memory = model.encode_history(modality, model.histories(users))
    worst = 0.0
    for begin in range(1, model.n_items, ITEMS_AT_ONCE):
        part = torch.arange(begin, min(begin + ITEMS_AT_ONCE, model.n_items), device=codes.device)
        scores = sequence_log_probs(
            model.network, model.vocabulary, modality, memory, codes[part].expand(len(users), -1, -1), None,
            model.softmax_trie(modality),
        )
        for user in range(len(users)):
            exact_scores = torch.empty(model.n_items, device=codes.device)
            exact_scores[ranking.items[user]] = ranking.scores[user]
            worst = max(worst, (scores[user] - exact_scores[part]).abs().max().item())
    return worst
