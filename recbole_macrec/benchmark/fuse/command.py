"""Fuses trained models of a comparison into a further row of its tables.

    python -m recbole_macrec.benchmark fuse DIR --models=MACRec,SASRecPerUser

DIR is the --output of a comparison whose runs of these models are finished. For each dataset and seed the candidates of a test
row are the --top best items of every model. Every model scores all of them by its log-probability, and a candidate's fused
score is

    s(item) = sum_m w_m log p_m(item | history)

The weights are chosen by the option valid_metric on the validation rows that all models have, and applied once to the test
rows. The fused row is named after its models ("MACRec + SASRecPerUser") and appears in the tables, the paired tests and the
report of the comparison. A repeated command fuses only what is missing; with another --top it replaces the row.
"""
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_macrec.benchmark.compare.comparison import split_names, write_and_print_tables
from recbole_macrec.benchmark.compare.interactions import all_rows, read_history
from recbole_macrec.benchmark.compare.ranks import Ranks
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_record import history_ranked
from recbole_macrec.benchmark.compare.runs import (
    RANKS,
    RESULT,
    RUN_SPEC,
    Comparison,
    Run,
    RunSpec,
    add_fusion,
    fusion_name,
    open_comparison,
    run_folder,
)
from recbole_macrec.benchmark.compare.statistics import row_values
from recbole_macrec.benchmark.compare.table import precisions
from recbole_macrec.benchmark.fuse.members import Member, Rows
from recbole_macrec.config.plain import plain
from recbole_macrec.config.schema.models import RANK_METRICS
from recbole_macrec.config.validation import check_whole
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.generation.decoding.search import best_of
from recbole_macrec.generation.decoding.weighted import (
    TOP,
    choose_weights,
    fused_scores,
    target_columns,
    target_ranks,
)
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.files import remove_temporary_files
from recbole_macrec.utils.sorted_rows import distinct

SUPPORTED = ("rec.items", "rec.topk", "data.num_items", "data.num_users", "data.count_items", "data.count_users")


def main(argv: list[str]) -> int:
    """The command ``fuse``; returns the exit code."""
    parser = CommandParser("python -m recbole_macrec.benchmark fuse", __doc__)
    parser.add_argument("folder", help="--output of compare")
    parser.add_argument("--models", required=True, help="labels of the comparison to fuse, separated by commas")
    parser.add_argument(
        "--top", type=int, default=TOP, help=f"number of items of each model's ranking that are candidates (default: {TOP})"
    )
    parser.add_argument("--data_path", help="folder of the datasets, if they were moved after the runs")
    args = parser.parse(argv)
    fuse(args.folder, split_names(args.models), args.top, args.data_path)
    write_and_print_tables(open_comparison(args.folder))
    return 0  # also if a run of another row has failed


def fuse(folder: str | Path, labels: Sequence[str], top: int = TOP, data_path: str | None = None) -> list[Run]:
    """Fuse the finished runs of ``labels``, on every dataset and with every seed.

    Finished fusions of the same runs are kept if they have the same ``top``. Others are replaced.

    Args:
        folder: folder of a comparison.
        top: candidates of each model; at least the largest ``topk``.
        data_path: folder of the datasets; None: that of the comparison.

    Returns:
        The fused runs.

    Raises:
        UserError: fewer than two labels, an unknown one, or a run that is not finished.
    """
    check_whole(1, top=top)
    comparison = open_comparison(folder)
    for label in labels:
        if label in comparison.fusions:
            raise UserError(f"--models names {label}, which is a fusion itself; name the models that it fuses.")
        if label not in comparison.labels:
            raise UserError(f"--models names {label}, which is no label of {folder}.{nearest(label, comparison.labels)}")
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise UserError(f"--models is {','.join(labels)}; expected at least two different labels.")
    name = fusion_name(labels)
    fused = []
    for dataset in comparison.datasets:
        for seed in comparison.seeds:
            runs = [_run_of(comparison, dataset, label, seed) for label in labels]
            spec = RunSpec(name, name, dataset, seed, {"models": list(labels), "top": top})
            own = run_folder(comparison.folder, dataset, name, seed)
            earlier = Run(own)
            if not (earlier.finished and earlier.spec == spec and earlier.fuses(runs)):
                _fuse_runs([Member(run, data_path) for run in runs], own, spec)
            fused.append(Run(own))
    add_fusion(comparison.folder, name, list(labels))
    return fused


def _run_of(comparison: Comparison, dataset: str, label: str, seed: int) -> Run:
    run = next(run for run in comparison.runs if (run.spec.dataset, run.spec.label, run.spec.seed) == (dataset, label, seed))
    if not run.finished:
        raise UserError(f"{run.spec.name} is not finished; give the command of the comparison again, then fuse.")
    return run


@dataclass(frozen=True)
class ScoredCandidates:
    """Candidates of the rows of a split and their scores, with the row order and the item numbers of the first model.

    Attributes:
        items: int64 [R, C], padded with 0.
        scores: float32 [M, R, C].
        column: int64 [T], position of each target among the candidates of its row, -1 if it is not among them.
    """

    rows: Rows
    items: np.ndarray
    scores: torch.Tensor
    column: np.ndarray

    def ranks(self, fused: torch.Tensor, lowest: int) -> np.ndarray:
        """Rank of every target; int64 [T]."""
        return target_ranks(fused, torch.from_numpy(self.rows.row), torch.from_numpy(self.column), lowest).numpy()


def score_candidates(members: Sequence[Member], split: str, top: int) -> ScoredCandidates:
    """Collect the candidates of all members, and let every member score all of them, in the rows that all members have.

    Raises:
        UserError: the members know different items, have different test rows, or have no validation row in common.
    """
    first = members[0]
    numbers = [_numbers(first, member) for member in members]  # member's item number -> first's
    rows = [member.rows(split, top) for member in members]
    places = _common_rows(members, rows, split)
    common = rows[0].select(places[0])
    lists = np.concatenate([number[own.best[place]] for number, own, place in zip(numbers, rows, places)], axis=1)
    items = distinct(torch.from_numpy(lists)).numpy()
    scores = []
    for member, number, place, own in zip(members, numbers, places, rows):
        requested = np.zeros((len(own.users), items.shape[1]), items.dtype)  # 0 in the rows that are left out
        requested[place] = np.argsort(number)[items]  # the member's order and numbers
        scores.append(torch.from_numpy(member.scores(split, requested)[place]))
    column = target_columns(torch.from_numpy(items[common.row]), torch.from_numpy(common.target)).numpy()
    return ScoredCandidates(common, items, torch.stack(scores), column)


def _numbers(first: Member, member: Member) -> np.ndarray:
    """Item numbers of ``first`` for each item number of ``member``; int64 [N]."""
    known = {token: number for number, token in enumerate(first.tokens)}
    if known.keys() != set(member.tokens):
        raise UserError(
            f"{first.label} and {member.label} know different items, so their scores cannot be added; compare them with "
            "the same missing_images and missing_texts."
        )
    return np.array([known[token] for token in member.tokens])


def _common_rows(members: Sequence[Member], rows: Sequence[Rows], split: str) -> list[np.ndarray]:
    """Row numbers of each member in the rows that all members have, in the order of the first member; int64 [M][R].

    Prints how many validation rows are left out.
    """
    numbered = [{key: row for row, key in enumerate(own.keys(member.tokens))} for member, own in zip(members, rows)]
    common = [key for key in numbered[0] if all(key in own for own in numbered)]
    left_out = set().union(*numbered).difference(common)
    if left_out and (split == "test" or not common):
        first, user = members[0].label, min(left_out)[0]
        other = next(member.label for member, own in zip(members, numbered) if own.keys() != numbered[0].keys())
        raise UserError(
            f"{first} and {other} have different {split} rows, for instance of user '{user}': a sequential model has no "
            f"{split} row of a user with too few interactions and ranks each target in a row of its own, a general "
            "model ranks all targets of a user in one row; fuse models of one kind, or compare with the split "
            "{LS: valid_and_test} and user_inter_num_interval='[3,inf)'."
        )
    if left_out:
        print(
            f"The weights are chosen on {len(common)} validation rows; {len(left_out)} are left out, which not every model has."
        )
    return [np.array([own[key] for key in common]) for own in numbered]


def _fuse_runs(members: Sequence[Member], folder: Path, spec: RunSpec) -> None:
    """Fuse ``members`` and write the fused run ``spec`` into ``folder``, where it replaces an earlier one."""
    began, cpu_began = time.perf_counter(), time.process_time()
    first, top = members[0], spec.settings["top"]
    metric = _metric_of_weights(first, top)
    test, valid = (score_candidates(members, split, top) for split in ("test", "valid"))
    lowest = len(first.tokens)

    def quality(fused: torch.Tensor) -> float:
        return float(row_values(valid.ranks(fused, lowest), valid.rows.row, metric).mean())

    weights, score = choose_weights(valid.scores, quality)
    ranks = _ranks(first, test, fused_scores(test.scores, weights), lowest)
    alone = torch.eye(len(members))  # weights with which a model ranks the candidates of the fusion by its own scores
    single = {member.label: test.ranks(fused_scores(test.scores, own), lowest) for member, own in zip(members, alone)}
    fusion = {
        "models": [member.label for member in members],
        "checkpoints": [member.run.result["checkpoint"] for member in members],
        "weights": [round(weight, 6) for weight in weights.tolist()],
        "candidates_per_model": top,
        "general": [member.label for member in members if not member.sequential],
        "overlap": overlap(single, test.rows.row, max(first.config["topk"])),
    }
    record = _record(members, spec, len(test.items), fusion) | {
        "test_result": _metrics(first, ranks),
        "best_valid_score": round(score, 6),
        "best_valid_result": {metric: round(score, 6)},
        "settings": {"valid_metric": metric},
    }
    seconds = time.perf_counter() - began
    remove_temporary_files(folder)
    (folder / RESULT).unlink(missing_ok=True)
    write_json(asdict(spec), folder / RUN_SPEC)
    ranks.save(folder / RANKS)
    joined = _joined_seconds([member.run for member in members], seconds, time.process_time() - cpu_began)
    write_json(record | {"seconds": joined}, folder / RESULT)


def _metric_of_weights(first: Member, top: int) -> str:
    """The validation metric by which the weights are chosen.

    Raises:
        UserError: metrics that a fusion of ``top`` candidates of each model does not have.
    """
    config = first.config
    check_whole(max(config["topk"]), top=top)
    if missing := [need for need in _needs(first) if need not in SUPPORTED]:
        raise UserError(
            f"metrics is {config['metrics']}, which need {', '.join(missing)}; a fusion ranks only its candidates. Compare "
            "with metrics of the first k items, such as Hit and NDCG."
        )
    metric = str(config["valid_metric"]).lower()
    if metric.partition("@")[0] not in RANK_METRICS:
        raise UserError(
            f"valid_metric is {config['valid_metric']}, by which the weights are chosen; expected Hit@k, MRR@k, NDCG@k or "
            "Recall@k. Compare with such a valid_metric, then fuse."
        )
    return metric


def _record(members: Sequence[Member], spec: RunSpec, rows: int, fusion: dict) -> dict:
    """The entries of the result of a fused run that do not depend on its ranking.

    Args:
        rows: number of test rows.
        fusion: the entry ``fusion``.
    """
    runs = [member.run for member in members]
    same = ("dataset", "seed", "versions", "commit", "hardware", "test_users", "test_rows")  # in all runs
    return {name: runs[0].result[name] for name in same} | {
        "model": spec.model,
        "test_detail": None,
        "semantic_ids": {},
        "fusion": fusion,
        "precision": precisions([run.result for run in runs]),
        "history_ranked": all(history_ranked(member.config) for member in members),
        "epochs": None,
        "parameters": sum(run.result["parameters"] for run in runs),
        "users_per_second": round(rows / sum(member.seconds("test") for member in members), 2),
        "peak_memory_mib": None,
        "checkpoint": "",
    }


def overlap(ranks: dict[str, np.ndarray], rows: np.ndarray, k: int) -> dict:
    """How the hits of several models overlap: shares of rows in which a target is among the first ``k`` candidates.

    Args:
        ranks: label -> rank of each target by this model alone; int64 [T].
        rows: int64 [T], the row of each target.

    Returns:
        ``k``; ``hit``: label -> share; and ``oracle``: share in which at least one model hits.
    """
    hits = {label: row_values(own, rows, f"hit@{k}") > 0 for label, own in ranks.items()}
    return {
        "k": k,
        "hit": {label: round(float(hit.mean()), 6) for label, hit in hits.items()},
        "oracle": round(float(np.logical_or.reduce(list(hits.values())).mean()), 6),
    }


def _ranks(first: Member, scored: ScoredCandidates, fused: torch.Tensor, lowest: int) -> Ranks:
    """The test rows of the fused ranking."""
    rows, users = scored.rows, first.dataset.token2id(first.dataset.uid_field, scored.rows.users)
    valid, test = all_rows(first.loaders["valid"]), first.loaders["test"]._dataset
    history = read_history(first.train._dataset, valid, test, np.asarray(users))
    top = best_candidates(scored.items, fused, max(first.config["topk"]))
    return Ranks(rows.users[rows.row], first.tokens, rows.target, scored.ranks(fused, lowest), top, history.counts,
                 history.histories, rows=rows.row)


def best_candidates(items: np.ndarray, fused: torch.Tensor, k: int) -> np.ndarray:
    """The ``k`` best of the candidates ``items`` [R, C], padded with 0; equal scores in candidate order, as in
    :func:`target_ranks`; int32 [R, k]."""
    best = best_of(torch.from_numpy(items), fused, k).widened(k)
    return best.items.masked_fill(best.scores.isneginf(), 0).numpy().astype(np.int32)


def _needs(member: Member) -> list[str]:
    """Data that the metrics of the run read."""
    register = member.trainer.eval_collector.register
    return [name for name, needed in vars(register).items() if needed is True]


def _metrics(first: Member, ranks: Ranks) -> dict[str, float]:
    """RecBole's metrics of the fused ranking."""
    collector, k = first.trainer.eval_collector, max(first.config["topk"])
    collector.data_collect(first.train)
    starts, counts = np.unique(ranks.rows, return_index=True, return_counts=True)[1:]
    hits = np.zeros((len(starts), k), dtype=np.int64)
    inside = ranks.ranks <= k
    hits[ranks.rows[inside], ranks.ranks[inside] - 1] = 1
    collector.data_struct.set("rec.items", torch.from_numpy(ranks.top.astype(np.int64)))
    collector.data_struct.set("rec.topk", torch.from_numpy(np.hstack([hits, counts[:, None]])))
    return plain(dict(first.trainer.evaluator.evaluate(collector.data_struct)))


def _joined_seconds(runs: Sequence[Run], fusion: float, fusion_cpu: float) -> dict[str, float]:
    """Seconds of the runs and of their fusion."""
    own = [run.result["seconds"] for run in runs]
    seconds = {
        "training": sum(each["training"] + each.get("pretraining", 0) for each in own),
        "fusion": fusion,
        "total": fusion + sum(each["total"] for each in own),
        "cpu": fusion_cpu + sum(each["cpu"] for each in own),
    }
    return {stage: round(value, 3) for stage, value in seconds.items()}
