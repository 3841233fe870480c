"""Paired tests and tables against scipy and against values computed by hand."""
import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recbole_macrec.benchmark.compare.comparison import comparison_tables
from recbole_macrec.benchmark.compare.publish import published_tests
from recbole_macrec.benchmark.compare.ranks import Ranks, TargetRanks
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import Run, RunSpec, open_comparison, run_folder, write_run_spec
from recbole_macrec.benchmark.compare.statistics import (
    RowMetrics,
    by_user,
    compare_labels,
    compare_pairs,
    holm,
    mixed_model,
    row_values,
    user_values,
)
from recbole_macrec.benchmark.compare.table import Cell, Row, Table, build_table, greatest_k
from recbole_macrec.benchmark.compare.table_formats import (
    cell_text,
    comma_separated,
    latex,
    markdown,
    print_table,
    write_tables,
)
from recbole_macrec.benchmark.report import grids
from recbole_macrec.errors import UserError


def measured(ranks: dict, *metrics: str) -> dict[str, list[RowMetrics]]:
    """label -> a run with one target per user and the ranks [U]."""
    found = {}
    for label, r in ranks.items():
        values = {metric: user_values(np.asarray(r), metric) for metric in metrics or ["ndcg@10"]}
        found[label] = [RowMetrics([(str(user), ("i",), 0) for user in range(len(r))], values)]
    return found


def paired_tests(ranks: dict, pairs: list, *metrics: str) -> list:
    metrics = metrics or ("ndcg@10",)
    tests, apart = compare_pairs(measured(ranks, *metrics), metrics, pairs)
    assert not apart
    return tests


def record(seed=1, parameters=10, detail=None, collisions=None, **metrics) -> dict:
    return {
        "test_result": metrics, "seed": seed, "parameters": parameters, "epochs": 3, "seconds": {"training": 2.0},
        "users_per_second": 5.0, "peak_memory_mib": {"host": 100.0, "gpu": None}, "test_detail": detail,
        "versions": {"torch": "2"}, "semantic_ids": {"text": {"collision_rate": collisions}} if collisions is not None else {},
        "hardware": {"processor": "p", "cores": 1, "memory_gib": 1, "gpus": []},
    }  # fmt: skip


def test_metrics_of_users_by_hand():
    ranks = np.array([1, 2, 10, 11, 0])
    assert user_values(ranks, "hit@10").tolist() == [1, 1, 1, 0, 0]
    assert user_values(ranks, "ndcg@10") == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert user_values(ranks, "mrr@2").tolist() == [1, 0.5, 0, 0, 0]
    with pytest.raises(UserError, match="novelty@10"):
        user_values(ranks, "novelty@10")


def test_better_model_is_significant_in_both_directions():
    rng = np.random.default_rng(0)
    worse = rng.integers(1, 60, 400)
    better = np.where(rng.random(400) < 0.3, np.maximum(1, worse - 15), worse)
    forth, back = paired_tests({"a": better, "b": worse}, [("a", "b"), ("b", "a")])
    assert forth.verdict == "better" and forth.difference > 0 and forth.low > 0 and forth.p_holm < 0.01
    assert back.verdict == "worse" and back.difference == -forth.difference and back.high < 0
    assert back.p == forth.p and forth.users == 400


def test_tables_contain_paired_tests_in_the_requested_direction(tmp_path):
    """A better model, a worse one with its users in another order, and a copy of the better one, with two seeds each."""
    rng = np.random.default_rng(5)
    users, worse = np.array([f"u{i}" for i in range(300)]), rng.integers(1, 40, (2, 300))
    better = np.where(rng.random((2, 300)) < 0.4, np.maximum(1, worse - 12), worse)
    order, nothing = rng.permutation(300), np.zeros(300, int)
    planted = {"better": (better, slice(None)), "worse": (worse, order), "copy": (better, order[::-1])}
    spec = {"format": 1, "labels": list(planted), "datasets": ["d"], "seeds": [0, 1]}
    pairs = [["better", "worse"], ["worse", "better"], ["better", "copy"], ["copy", "better"]]
    write_json(spec | {"pairs": pairs}, tmp_path / "compare.json")
    for label, (ranks, rows) in planted.items():
        for seed in (0, 1):
            folder = run_folder(tmp_path, "d", label, seed)
            means = {m: user_values(ranks[seed], m).mean() for m in ("hit@10", "ndcg@10")}
            write_run_spec(folder, RunSpec(label, label, "d", seed))
            write_json(record(seed, **means), folder / "result.json")
            kept = Ranks(users[rows], users[:1], nothing, ranks[seed][rows], nothing[:, None], nothing, [nothing[:1]] * 300)
            kept.save(folder / "ranks.npz")
    (table,) = comparison_tables(open_comparison(tmp_path))
    for metric in ("hit@10", "ndcg@10"):
        forth, back, same, again = [test for test in table.tests if test.metric == metric]
        expected = user_values(better, metric).mean(0) - user_values(worse, metric).mean(0)
        assert forth.difference == pytest.approx(expected.mean()) == -back.difference
        assert forth.p == mixed_model((user_values(better, metric) - user_values(worse, metric)).round(12))[3]
        assert (forth.users, forth.rows, forth.seeds) == (300, 300, 2)
        assert [test.verdict for test in (forth, back, same, again)] == ["better", "worse", "no difference", "no difference"]
    assert "mixed model, with random effects of seeds and users" in markdown([table]) and "two runs" not in markdown([table])
    assert "| better | worse | ndcg@10 | +" in markdown([table]) and "| no different |" in markdown([table])
    write_json(spec | {"pairs": []}, tmp_path / "compare.json")
    (table,) = comparison_tables(open_comparison(tmp_path))
    assert len(table.tests) == 4 and "worse" not in {test.first for test in table.tests}  # the best against each other one


def test_only_metrics_that_all_rows_have_are_tested(tmp_path):
    """The published ranks of a row end at its own largest k, so a larger k would count its targets below as missed."""
    metrics = {"first": ["hit@10", "ndcg@10", "hit@20"], "second": ["hit@10", "ndcg@10"], "third": ["hit@5"]}
    rng, users, nothing = np.random.default_rng(0), np.arange(50).astype(str), np.zeros(50, int)
    for label, own in metrics.items():
        for seed in (0, 1):
            entries = {"label": label, "seed": seed, "test_result": dict.fromkeys(own, 0.1)}
            write_json(entries, tmp_path / f"{label}-seed-{seed}.json")
            ranks = TargetRanks(users, nothing.astype(str), rng.integers(0, 30, 50), np.arange(50))
            ranks.first(greatest_k(own)).save(tmp_path / f"{label}-seed-{seed}.npz")
    assert published_tests(tmp_path, [0, 1]) == {}  # no metric in common
    (tmp_path / "third-seed-1.json").unlink()
    assert {test["metric"] for test in published_tests(tmp_path, [0, 1])["tests"]} == {"hit@10", "ndcg@10"}


def test_foot_lists_every_machine_once():
    one, two = record(1, ndcg=0.1), record(2, ndcg=0.2)
    other = one | {"hardware": one["hardware"] | {"processor": "q", "gpus": ["H100"]}, "versions": {"torch": "3"}}
    foot = build_table("t", {"A": [one, two], "B": [other]}).foot
    assert foot == "Seeds 1, 2; p, 1 cores, 1 GiB, GPU: none; q, 1 cores, 1 GiB, GPU: H100; torch 2; torch 3"


def test_a_fusion_of_fewer_seeds_has_a_note(tmp_path):
    spec = {"format": 1, "labels": ["A", "B"], "datasets": ["d"], "seeds": [1, 2], "pairs": []}
    write_json(spec | {"fusions": {"A + B": ["A", "B"]}}, tmp_path / "compare.json")
    for label, seed in (("A", 1), ("A", 2), ("B", 1), ("B", 2), ("A + B", 1)):
        folder = run_folder(tmp_path, "d", label, seed)
        write_run_spec(folder, RunSpec(label, label, "d", seed))
        write_json(record(seed, map=0.5), folder / "result.json")  # not tested, so the runs need no ranks
    (table,) = comparison_tables(open_comparison(tmp_path))
    assert [row.note for row in table.rows] == ["", "", "fused for 1 of 2 seeds; run fuse again"]


def test_copies_of_a_model_do_not_differ():
    ranks = np.random.default_rng(1).integers(1, 30, 300)
    for test in paired_tests({"a": ranks, "b": ranks.copy()}, [("a", "b"), ("b", "a")]):
        assert test.verdict == "no difference" and test.difference == test.low == test.high == 0 and test.p == 1


def test_false_positive_rate_of_equal_models_with_one_seed():
    """If two models are exchangeable, a test at level 5 % rejects in about 5 % of trials."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(60):
        a, b = rng.integers(1, 30, (2, 200))
        (test,) = paired_tests({"a": a, "b": b}, [("a", "b")])
        wrong += test.verdict != "no difference"
    assert wrong <= 8  # 3 expected; more than 8 has probability 0.3 %


def test_one_seed_equals_the_t_test_over_users():
    difference = np.random.default_rng(3).normal(0.1, 1, 80)
    mean, low, high, p = mixed_model(difference[None])
    assert mean == pytest.approx(difference.mean()) and p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 79, difference.mean(), stats.sem(difference)))


@pytest.mark.parametrize(
    "x, ms_user, ms_seed, ms_rest, total",
    [
        ([[1, 2, 4], [1, 2, 1]], 7 / 6, 3 / 2, 3 / 2, 7 / 6),
        ([[2, 4, 3], [0, 1, 2]], 3 / 2, 6, 1 / 2, 7),  # the seeds differ
        ([[1, 2, 6], [3, 2, 4]], 6, 0, 2, 6),  # at least MS_user
    ],
)
def test_mixed_model_by_hand(x, ms_user, ms_seed, ms_rest, total):
    """Two seeds of three users: the mean squares have 2, 1 and 2 degrees of freedom."""
    mean, low, high, p = mixed_model(np.array(x, dtype=float))
    degrees = total**2 / (ms_user**2 / 2 + ms_seed**2 + ms_rest**2 / 2)
    error = (total / 6) ** 0.5
    assert mean == pytest.approx(np.mean(x)) and p == pytest.approx(max(2 * stats.t.sf(mean / error, degrees), 2 / 2**3))
    assert (low, high) == pytest.approx(
        (mean - error * stats.t.ppf(0.975, degrees), mean + error * stats.t.ppf(0.975, degrees))
    )


def test_few_users_with_one_sign_get_the_p_value_of_the_sign_test():
    assert mixed_model(np.array([[0.1, 0.1, 0.1]]))[3] == 2 / 2**3
    assert mixed_model(np.array([[0.1]]))[3] == 1


def test_seeds_that_cancel_out_show_no_difference():
    """Every user prefers one model with the first seed and the other model with the second."""
    signs = np.array([1.0, -1.0] * 10)
    assert mixed_model(np.array([signs, -signs])) == (0, 0, 0, 1)
    assert mixed_model(np.zeros((2, 20))) == (0, 0, 0, 1)


def test_the_label_with_the_best_last_metric_is_tested_against_the_others():
    ranks = {"hits": [3, 3, 3], "top": [1, 1, 0], "none": [0, 0, 0]}
    users, rows = np.array(list("abc")), np.arange(3)
    runs = {label: [TargetRanks(users, users, np.array(own), rows)] for label, own in ranks.items()}
    tests, _ = compare_labels(runs, ["hit@10", "ndcg@10"])
    assert [(test.first, test.second) for test in tests] == 2 * [("top", "hits"), ("top", "none")]


def test_users_are_weighted_by_their_number_of_test_rows():
    table = by_user([np.array([1.0, 0, 0]), np.array([1.0, 1])], [["u", "v", "v"], ["v", "w"]])
    assert table.mean(1) == pytest.approx([1 / 3, 1]) and table.shape == (2, 3)
    assert by_user([np.array([3.0, 1])], [["u", "v"]]).tolist() == [[3, 1]]


@pytest.mark.parametrize("seeds, most", [(2, 0.08), (5, 0.08)])
def test_false_positive_rate_of_equal_models_with_several_seeds(seeds, most):
    """200 pairs of equal models whose Hit@10 varies by .002 between seeds, at level 5 %. A test over users of their means over
    seeds would reject every fifth pair with five seeds, and every sixth with one."""
    rng, users, trials = np.random.default_rng(8), 20000, 200
    wrong, over_users = 0, 0
    for _ in range(trials):
        chance = np.repeat([0.0, 0.5], [16000, 4000])  # a tenth of the lists hit
        hits = chance + rng.normal(0, 0.002, (2, seeds, 1)) > rng.random((2, seeds, users), dtype=np.float32)
        difference = hits[0].astype(float) - hits[1]
        _, low, high, p = mixed_model(difference)
        wrong += p < 0.05 and not low <= 0 <= high
        over_users += stats.ttest_1samp(difference.mean(0), 0).pvalue < 0.05
    assert wrong / trials <= most < over_users / trials


def test_holm_by_hand():
    """p = .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; corrected values must not decrease."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_correction_is_over_all_tests_of_a_table():
    ranks = {"a": [1] * 6 + [3] * 4, "b": [2] * 6 + [3] * 4, "c": [3] * 10}
    tests = paired_tests(ranks, [("a", "b"), ("a", "c")], "ndcg@10", "hit@1")
    assert [t.p_holm for t in tests] == holm([t.p for t in tests]) and len(tests) == 4


def test_users_with_several_targets_by_hand(tmp_path):
    """User u has two targets at ranks 1 and 3, v one at 11, w three at 2, 4 and 5, and v a second row with the same target."""
    users, rows = np.array(list("uuvwwwv")), np.array([0, 0, 1, 2, 2, 2, 3])
    targets, ranks, items = np.array([1, 2, 1, 1, 2, 3, 1]), np.array([1, 3, 11, 2, 4, 5, 1]), np.array(["[PAD]", *"abc"])
    top, histories = np.zeros((4, 2), int), [np.array([i]) for i in range(4)]
    Ranks(users, items, targets, ranks, top, np.zeros(4, int), histories, rows=rows).save(tmp_path / "ranks.npz")
    read = Run(tmp_path).ranks
    log = np.log2
    assert row_values(read.ranks, read.rows, "hit@2").tolist() == [1, 0, 1, 1] and row_values(
        read.ranks, read.rows, "recall@4"
    ).tolist() == pytest.approx([1, 0, 2 / 3, 1])
    assert row_values(read.ranks, read.rows, "mrr@10").tolist() == [1, 0, 0.5, 1]
    gains = [1.5 / (1 + 1 / log(3)), 0, (1 / log(3) + 1 / log(5)) / (1 + 1 / log(3) + 0.5), 1]
    assert row_values(read.ranks, read.rows, "ndcg@4") == pytest.approx(gains)
    assert read.keys() == [("u", ("a", "b"), 0), ("v", ("a",), 0), ("w", ("a", "b", "c"), 0), ("v", ("a",), 1)]
    assert [h.tolist() for h in read.single().histories] == [[0], [0], [1], [2], [2], [2], [3]]


def test_runs_with_different_test_rows_are_reported_and_not_tested():
    a, b = (RowMetrics([(user, ("i",), 0)], {"hit@10": np.ones(1)}) for user in "uv")
    assert compare_pairs({"a": [a], "b": [b], "c": [a]}, ["hit@10"], [("a", "b")]) == ([], [("a", "b")])
    table = build_table("t", GROUPS)
    table.untested = [("a", "b")]
    table.remarks = ["Ranked without the items of the user's history: b."]
    expected = ["a and b are not tested against each other: their test rows differ.", *table.remarks]
    assert all(sentence in markdown([table]) for sentence in expected)
    assert grids.tests(table) is None and grids.notes(table) == expected


def test_the_note_names_the_test_users_of_each_pair():
    sequential, general = (paired_tests({"A": range(1, n), "B": [2] * (n - 1)}, [("A", "B")], "hit@1") for n in (4, 6))
    table = build_table("t", GROUPS)
    table.tests = [*sequential, replace(general[0], first="C", second="D")]
    assert "Paired over 3 test users (A and B) and 5 test users (C and D): two-sided test" in markdown([table])


def test_rows_with_other_topk():
    """Metrics are in ascending order of k. The verdict is by the largest k that all rows have, or that the tests are about."""
    wide = [record(1, **{"hit@10": 0.3, "hit@20": 0.6, "ndcg@10": 0.2, "ndcg@20": 0.3})]
    wider = [record(1, **{"hit@20": 0.5, "hit@10": 0.2, "ndcg@20": 0.2, "ndcg@10": 0.1})]
    usual = [record(1, **{"hit@5": 0.2, "hit@10": 0.4, "ndcg@5": 0.1, "ndcg@10": 0.4})]
    table = build_table("t", {"wide": wide, "wider": wider, "usual": usual, "unfinished": []})
    assert table.metrics == ["hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20"]
    assert grids.verdict(table) == "usual has the highest ndcg@10, 0.4000."
    table.tests = paired_tests({"wide": [4] * 30, "usual": [1] * 30}, [("wide", "usual")], "hit@5", "ndcg@5")
    assert grids.verdict(table) == ""  # only one row has ndcg@5
    table.tests = [replace(test, metric=test.metric.replace("5", "10")) for test in table.tests]
    assert "; significantly better than wide between these runs of one seed." in grids.verdict(table)


def test_caption_with_one_seed_says_that_two_runs_are_compared():
    table = build_table("t", GROUPS)
    table.tests = paired_tests({"A_1": [1] * 20 + [3] * 10, "B": [4] * 30}, [("A_1", "B")])
    assert table.tests[0].verdict == "better" and table.tests[0].seeds == 1
    for text in (markdown([table]), grids.tests(table).caption):
        assert "Paired over 30 test users" in text and "between these two runs" in text


GROUPS = {
    "A_1": [record(1, **{"hit@10": 0.2, "ndcg@10": 0.1}), record(2, **{"hit@10": 0.4, "ndcg@10": 0.3})],
    "B": [record(1, detail={"fused": {"id": {"hit@10": 0.5}}}, collisions=0.25, **{"hit@10": 0.25, "ndcg@10": 0.4})],
    "C": [record(1, **{"hit@10": 0.1, "ndcg@10": 0.05})],
}


def test_tables_mark_best_and_second_best_and_contain_deviations():
    table = build_table("t", GROUPS, {"C": "1 of 2 runs unfinished"})
    text = markdown([table])
    assert "| A_1 | **0.3000 ± 0.1414** | <u>0.2000 ± 0.1414</u> |" in text
    assert "| B | <u>0.2500</u> | **0.4000** | 0.5000 |" in text and "text 25.00%" in text
    assert "| C | 0.1000 | 0.0500 |" in text and "1 of 2 runs unfinished" in text
    assert "hit@10 of IDs" in text and "| collisions | note |" in text
    assert "collisions" in markdown([build_table("t", GROUPS)]) and "note" not in markdown([build_table("t", GROUPS)])
    assert "collisions" not in markdown([build_table("t", {"C": GROUPS["C"]})])
    tex = latex([table])
    assert "A\\_1 & \\textbf{0.3000 $\\pm$ 0.1414} & \\underline{0.2000 $\\pm$ 0.1414}" in tex
    body = [line for line in tex.splitlines() if line.endswith("\\\\")]
    assert len({line.count("&") for line in body}) == 1 and len(body) == 4
    assert "C: 1 of 2 runs unfinished." in tex


@pytest.mark.parametrize("metric, best", [("gauc", "high"), ("itemcoverage@10", "high"), ("giniindex@10", "low")])
def test_the_best_value_is_the_highest_unless_recbole_says_otherwise(metric, best):
    table = build_table("t", {"high": [record(1, **{metric: 0.9})], "low": [record(1, **{metric: 0.2})]})
    assert [row.label for row in table.rows if row.cells[metric].place == 1] == [best]


def test_seconds_of_training_contain_the_pretraining_and_collisions_are_means_over_seeds():
    seconds = {"seconds": {"training": 2.0, "pretraining": 3.0}}
    (row,) = build_table("t", {"A": [record(1, collisions=0.1) | seconds, record(2, collisions=0.3) | seconds]}).rows
    assert row.cells["training s"].values == (5.0, 5.0) and row.collisions == "text 20.00%"


def test_csv_and_json_contain_every_value(tmp_path):
    table = build_table("t", GROUPS)
    lines = list(csv.DictReader(comma_separated([table]).splitlines()))
    (line,) = [line for line in lines if (line["label"], line["figure"]) == ("A_1", "hit@10")]
    assert float(line["mean"]) == pytest.approx(0.3) and float(line["std"]) == pytest.approx(0.02**0.5) and line["seeds"] == "2"
    write_tables([table], tmp_path)
    (written,) = json.loads((tmp_path / "table.json").read_text())["tables"]
    assert written["rows"][0]["figures"]["ndcg@10"]["values"] == [0.1, 0.3]
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".tex", ".csv", ".json"}


def test_table_names_the_precision_of_training_and_evaluation(tmp_path):
    fp32, bf16 = ({"training": training, "evaluation": "fp32"} for training in ("fp32", "bf16"))
    groups = {label: [record(**{"hit@10": value}) | {"precision": precision}]
              for label, value, precision in (("A", 0.2, fp32), ("B", 0.3, bf16), ("C", 0.1, fp32))}  # fmt: skip
    table = build_table("t", groups)
    assert table.precision == "Training in fp32 (A, C) and bf16 (B), evaluation in fp32."
    ranks = {label: np.arange(1, 20) for label in "ABC"}
    table.tests = paired_tests(ranks, [("B", "A"), ("A", "C")], "hit@10")
    different = "B and A differ in precision: training in bf16 and fp32."
    write_tables([table], tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert table.precision in text and different in text and "A and C differ" not in text
    tex = (tmp_path / "table.tex").read_text()
    assert table.precision in tex and different in tex and "Paired over 19 test users" in tex
    assert f"B & A & hit@10 & {table.tests[0].difference:+.4f} & " in tex and "95 \\% interval" in tex
    (written,) = json.loads((tmp_path / "table.json").read_text())["tables"]
    assert [row["precision"] for row in written["rows"]] == [fp32, bf16, fp32]
    assert different in written["test_notes"] and different in grids.tests(table).caption
    assert all(line["evaluation"] == "fp32" for line in csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert build_table("t", GROUPS).precision == ""  # older runs do not say


def test_equal_means_have_the_same_rank_marker():
    groups = {label: [record(**{"hit@10": value})] for label, value in (("a", 0.2), ("b", 0.2), ("c", 0.1))}
    places = [row.cells["hit@10"].place for row in build_table("t", groups).rows]
    assert places == [1, 1, 2]
    only = build_table("t", {"a": [record(**{"hit@10": 0.2})]})
    assert only.rows[0].cells["hit@10"].place == 0


def test_json_is_written_atomically(tmp_path):
    write_json({"a": 1}, tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_labels_are_not_interpreted_as_markup(capsys):
    label, record = "[/nope] two :smile: a|b\\c", {"test_result": {"ndcg@10": 0.5}, "epochs": 1, "parameters": 1, "seed": 1,
                                                   "semantic_ids": {}, "seconds": {"training": 0.0}, "versions": {},
                                                   "hardware": {"processor": "p", "cores": 1, "memory_gib": 1, "gpus": []}}
    table = build_table(
        "[red]title", {label: [record], "[bold]": [{**record, "test_result": {"ndcg@10": 0.25}}]}, {"[bold]": "[/x]"}
    )
    print_table(table)
    out = capsys.readouterr().out
    assert all(text in out for text in (label, "[bold]", "[red]title", "[/x]", "0.5000"))


def test_labels_of_tables_are_escaped():
    label = r"=a\b~c^d|e"
    marked = r"*a* [b](c) <i> p < 1 _d_ e_f --g"
    table = Table("=title", ["hit@10"], ["hit@10"], [Row(label, {"hit@10": Cell((0.5, 0.25))})])
    assert r"| =a\\b\~c\^d\|e |" in markdown([table])
    assert r"=a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\textbar{}e &" in latex([table])
    lines = comma_separated([table]).splitlines()
    assert lines[1].startswith("'=title,'" + label)
    assert cell_text(marked) == r"\*a\* \[b](c) \<i> p < 1 \_d\_ e_f --g"
    table = Table(marked, ["hit@10"], ["hit@10"], [Row(marked, {"hit@10": Cell((0.5, 0.25))})])
    assert r"{*}a{*} {[}b](c) \textless{}i\textgreater{} p \textless{} 1 \_d\_ e\_f -{}-g &" in latex([table])
