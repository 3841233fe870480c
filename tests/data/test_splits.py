"""Comparisons with splits that give a user several test items or rows: paired tests match the table."""
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from helpers import histories_of
from small_models import QUICK, SMALL, data_path  # noqa: F401  data_path is a fixture

from recbole_macrec.benchmark.compare.comparison import comparison_tables
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant
from recbole_macrec.benchmark.compare.runs import Comparison
from recbole_macrec.benchmark.compare.statistics import row_values
from recbole_macrec.benchmark.compare.table_formats import markdown
from recbole_macrec.benchmark.compare.worker import Resources, execute
from recbole_macrec.benchmark.report.report_figures import groups
from recbole_macrec.benchmark.report.user_view import UserViewOptions, build_user_view

RANDOM = {"split": {"RS": [0.4, 0.2, 0.4]}, "order": "RO", "group_by": "user", "mode": "full"}
LATEST = {"split": {"RS": [0.4, 0.2, 0.4]}, "order": "TO", "group_by": "user", "mode": "full"}
SAMPLED = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}


def compared(models: str, path: Path, seeds=(1, 2), **options) -> Comparison:
    """A comparison whose runs are executed in this process."""
    settings = {**SMALL, **QUICK, "epochs": 1, "data_path": str(path), "metrics": ["Hit", "NDCG", "Recall", "MRR"], **options}
    variants = [Variant(model, model) for model in models.split(",")]
    comparison = Matrix(variants, [TINY], seeds, settings).write("compared")
    for run in comparison.runs:
        execute(run.folder, Resources())
        assert run.finished, run.error
    return comparison


def interactions(path: Path) -> dict[str, list[str]]:
    """User -> items in order of time, read from the atomic file."""
    return histories_of(path / TINY / f"{TINY}.inter")


@pytest.mark.parametrize(
    "models, split, several_rows",
    [("MMGRec,BPR", RANDOM, False), ("GRU4Rec,FPMC", LATEST, True), ("GRU4Rec,FPMC", SAMPLED, False)],
    ids=["targets", "rows", "sampled negatives"],
)
def test_paired_differences_equal_those_of_the_table(models, split, several_rows, data_path):
    seeds = (1,) if split is SAMPLED else (1, 2)  # of a random split each seed has its own
    comparison = compared(models, data_path, seeds, eval_args=split)
    (table,) = comparison_tables(comparison)
    assert len(table.tests) == 4 and not table.untested
    means = {row.label: row.cells for row in table.rows}
    for test in table.tests:
        expected = means[test.first][test.metric].mean - means[test.second][test.metric].mean
        assert test.difference == pytest.approx(expected, abs=2e-4)
        assert test.users == 40 and (test.rows > 40) == several_rows and test.seeds == len(seeds)
    assert (f"test rows of {table.tests[0].users} users" in markdown([table])) == several_rows
    history_of = interactions(data_path)
    for run in comparison.runs:
        ranks, result = run.ranks, run.result
        assert result["test_rows"] == len(ranks.keys()) and result["test_users"] == 40
        for metric in ("hit@10", "ndcg@10", "recall@10", "mrr@10"):
            assert row_values(ranks.ranks, ranks.rows, metric).mean() == pytest.approx(result["test_result"][metric], abs=1e-4)
        alone = ranks.single()
        for user, target, history in zip(alone.users, alone.targets, alone.histories):
            items = [alone.items[i] for i in history]
            if run.spec.model in ("GRU4Rec", "FPMC"):
                assert [*items, alone.items[target]] == history_of[user][: len(items) + 1]
            else:
                left = iter(history_of[user])
                assert all(item in left for item in items)  # in their order
        trained = Counter({item: count for item, count in zip(ranks.items.tolist(), ranks.counts.tolist()) if count})
        assert all(count <= sum(items.count(item) for items in history_of.values()) for item, count in trained.items())
        if split is LATEST:  # all but the first interaction are rows
            held_out = {user: int(0.2 * (len(items) - 1)) + int(0.4 * (len(items) - 1)) for user, items in history_of.items()}
            assert trained == Counter(i for user, items in history_of.items() for i in items[: len(items) - held_out[user]])
    view = build_user_view(comparison, TINY, UserViewOptions(users=1000), 0)
    names = [user["user"] for user in view["users"]]
    assert len(names) == len(set(names)) == view["testUsers"] >= 40 and (len(names) > 40) == (split is RANDOM or several_rows)
    assert all(
        any(mean for mean in means if mean) for drawn in groups(comparison, TINY) for means, _ in drawn.drawing.series.values()
    )


def test_models_with_different_test_rows_share_a_table_without_tests(data_path):
    """A sequential model has a test row per interaction, a general one a row per user, so no paired test is possible."""
    (table,) = comparison_tables(compared("GRU4Rec,BPR", data_path, [1], eval_args=LATEST))
    assert all(row.cells["ndcg@10"].values for row in table.rows) and not table.tests
    assert "not tested against each other: their test rows differ" in markdown([table])


def test_reported_histories_are_complete(data_path):
    (run,) = compared("GRU4Rec", data_path, [1], MAX_ITEM_LIST_LENGTH=1).runs
    ranks, history_of = run.ranks, interactions(data_path)
    for user, target, history in zip(ranks.users, ranks.targets, ranks.histories):
        assert [ranks.items[i] for i in (*history, target)] == history_of[user]
    expected = Counter(item for items in history_of.values() for item in items[:-2])
    assert dict(zip(ranks.items[1:], ranks.counts[1:])) == {item: expected[item] for item in ranks.items[1:]}
    assert np.array_equal(ranks.rows, np.arange(40))


def test_the_history_of_targets_that_are_ranked_together_ends_before_the_first_one(data_path):
    (run,) = compared("GRU4Rec", data_path, [1], eval_args={**LATEST, "mode": "uni20"}).runs
    ranks, history_of = run.ranks, interactions(data_path)
    assert len(ranks.histories) == 40 < len(ranks.rows)
    for row, history in enumerate(ranks.histories):
        (user,) = set(ranks.users[ranks.rows == row].tolist())
        assert [ranks.items[i] for i in history] == history_of[user][: len(history)]
        assert {ranks.items[i] for i in ranks.targets[ranks.rows == row]} == set(history_of[user][len(history) :])
