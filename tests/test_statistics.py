"""Paired tests and tables: equal to scipy and to counting by hand, right in both directions."""
import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from recbole_macrec.benchmark.compare import comparison_tables
from recbole_macrec.benchmark.runs import Asked, Ranks, Run, open_comparison, run_folder, write_asked, write_json
from recbole_macrec.benchmark.statistics import compare_pairs, holm, mean_values, paired, user_values
from recbole_macrec.benchmark.table import build_table, comma_separated, latex, markdown, write_tables
from recbole_macrec.errors import UserError


def values(ranks, metric="ndcg@10") -> dict[str, dict[str, dict[str, float]]]:
    """metric -> label -> user -> value, as compare_pairs wants them."""
    return {metric: {label: dict(enumerate(user_values(np.asarray(r), metric).tolist())) for label, r in ranks.items()}}


def record(seed=1, parameters=10, detail=None, collisions=None, **metrics) -> dict:
    return {
        "test_result": metrics, "seed": seed, "parameters": parameters, "epochs": 3, "seconds": {"training": 2.0}, "users_per_second": 5.0,
        "peak_memory_mib": {"host": 100.0, "gpu": None}, "test_detail": detail, "versions": {"torch": "2"},
        "semantic_ids": {"text": {"collision_rate": collisions}} if collisions is not None else {},
        "hardware": {"processor": "p", "cores": 1, "memory_gib": 1, "gpus": []},
    }  # fmt: skip


def test_metrics_of_users_by_hand():
    ranks = np.array([1, 2, 10, 11, 0])
    assert user_values(ranks, "hit@10").tolist() == [1, 1, 1, 0, 0]
    assert user_values(ranks, "ndcg@10") == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert user_values(ranks, "mrr@2").tolist() == [1, 0.5, 0, 0, 0]
    with pytest.raises(UserError, match="novelty@10"):
        user_values(ranks, "novelty@10")


def test_a_planted_better_model_is_found_in_both_directions():
    rng = np.random.default_rng(0)
    worse = rng.integers(1, 60, 400)
    better = np.where(rng.random(400) < 0.3, np.maximum(1, worse - 15), worse)
    forth, back = compare_pairs(values({"a": better, "b": worse}), [("a", "b"), ("b", "a")])
    assert forth.verdict == "better" and forth.difference > 0 and forth.low > 0 and forth.p_holm < 0.01
    assert back.verdict == "worse" and back.difference == -forth.difference and back.high < 0
    assert back.p == forth.p and forth.users == 400


def test_tables_of_a_folder_test_user_by_user_in_the_direction_asked(tmp_path):
    """A planted better model, a worse one whose users stand in another order, and a copy, as runs of two seeds."""
    rng = np.random.default_rng(5)
    users, worse = np.array([f"u{i}" for i in range(300)]), rng.integers(1, 40, (2, 300))
    better = np.where(rng.random((2, 300)) < 0.4, np.maximum(1, worse - 12), worse)
    order, nothing = rng.permutation(300), np.zeros(300, int)
    planted = {"better": (better, slice(None)), "worse": (worse, order), "copy": (better, order[::-1])}
    asked = {"format": 1, "labels": list(planted), "datasets": ["d"], "seeds": [0, 1]}
    pairs = [["better", "worse"], ["worse", "better"], ["better", "copy"], ["copy", "better"]]
    write_json(asked | {"pairs": pairs}, tmp_path / "compare.json")
    for label, (ranks, rows) in planted.items():
        for seed in (0, 1):
            folder = run_folder(tmp_path, "d", label, seed)
            means = {m: user_values(ranks[seed], m).mean() for m in ("hit@10", "ndcg@10")}
            write_asked(folder, Asked(label, label, "d", seed))
            write_json(record(seed, **means), folder / "result.json")
            kept = Ranks(users[rows], users[:1], nothing, ranks[seed][rows], nothing[:, None], nothing, [nothing[:1]] * 300)
            kept.save(folder / "ranks.npz")
    (table,) = comparison_tables(open_comparison(tmp_path))
    for metric in ("hit@10", "ndcg@10"):
        forth, back, same, again = [test for test in table.tests if test.metric == metric]
        expected = user_values(better, metric).mean(0) - user_values(worse, metric).mean(0)
        assert forth.difference == pytest.approx(expected.mean()) == -back.difference
        assert forth.p == pytest.approx(stats.wilcoxon(expected.round(12)).pvalue)
        assert [test.verdict for test in (forth, back, same, again)] == ["better", "worse", "no difference", "no difference"]
    assert "| better | worse | ndcg@10 | +" in markdown([table]) and "| no different |" in markdown([table])


def test_two_copies_of_a_model_differ_in_neither_direction():
    ranks = np.random.default_rng(1).integers(1, 30, 300)
    for test in compare_pairs(values({"a": ranks, "b": ranks.copy()}), [("a", "b"), ("b", "a")]):
        assert test.verdict == "no difference" and test.difference == test.low == test.high == 0 and test.p == 1


def test_equally_good_models_rarely_seem_to_differ():
    """Under exchange of the two models, a test at level 5 % errs in about 5 % of trials."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(60):
        a, b = rng.integers(1, 30, (2, 200))
        (test,) = compare_pairs(values({"a": a, "b": b}), [("a", "b")])
        wrong += test.verdict != "no difference"
    assert wrong <= 8  # 3 expected; more than 8 has probability 0.3 %


def test_paired_equals_scipy():
    difference = np.random.default_rng(3).normal(0.1, 1, 80)
    mean, low, high, p = paired(difference)
    assert mean == pytest.approx(difference.mean()) and p == stats.wilcoxon(difference).pvalue
    student = stats.t.interval(0.95, 79, difference.mean(), stats.sem(difference))
    assert (low, high) == pytest.approx(student, abs=0.04)  # a bootstrap of the mean of many is near Student's interval


def test_wilcoxon_by_hand():
    """Five users, all better, without ties: only the two sign patterns of all ranks are as extreme, p = 2 / 2^5."""
    assert paired(np.array([0.1, 0.2, 0.3, 0.4, 0.5]))[3] == pytest.approx(2 / 32)


def test_holm_by_hand():
    """Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; no corrected value is below one before it."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_correction_counts_all_tests_made_together():
    ranks = {"a": [1] * 6 + [3] * 4, "b": [2] * 6 + [3] * 4, "c": [3] * 10}
    both = values(ranks, "ndcg@10") | values(ranks, "hit@1")
    tests = compare_pairs(both, [("a", "b"), ("a", "c")])
    assert [t.p_holm for t in tests] == holm([t.p for t in tests]) and len(tests) == 4


def test_seeds_are_averaged_per_user(tmp_path):
    runs = []
    for seed, order in ((1, ["u1", "u2"]), (2, ["u2", "u1"])):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ranks = np.array([{"u1": seed, "u2": 20}[user] for user in order])
        nothing = np.zeros(2, int)
        Ranks(np.array(order), np.array(["[PAD]", "i"]), nothing, ranks, nothing[:, None], nothing, [nothing, nothing[:0]]).save(folder / "ranks.npz")
        runs.append(Run(folder))
    assert mean_values(runs, "mrr@10") == {"u1": 0.75, "u2": 0}
    assert [len(history) for history in runs[0].ranks.histories] == [2, 0]
    other = tmp_path / "other"
    other.mkdir()
    Ranks(np.array(["u1"]), np.array(["i"]), nothing[:1], ranks[:1], nothing[:1, None], nothing[:1], [nothing]).save(other / "ranks.npz")
    with pytest.raises(UserError, match="other users"):
        mean_values([*runs, Run(other)], "mrr@10")


GROUPS = {
    "A_1": [record(1, **{"hit@10": 0.2, "ndcg@10": 0.1}), record(2, **{"hit@10": 0.4, "ndcg@10": 0.3})],
    "B": [record(1, detail={"fused": {"id": {"hit@10": 0.5}}}, collisions=0.25, **{"hit@10": 0.25, "ndcg@10": 0.4})],
    "C": [record(1, **{"hit@10": 0.1, "ndcg@10": 0.05})],
}


def test_tables_mark_best_and_second_and_give_the_deviation():
    table = build_table("t", GROUPS, {"C": "1 of 2 runs unfinished"})
    text = markdown([table])
    assert "| A_1 | **0.3000 ± 0.1414** | <u>0.2000 ± 0.1414</u> |" in text
    assert "| B | <u>0.2500</u> | **0.4000** | 0.5000 |" in text and "text 25.00%" in text
    assert "| C | 0.1000 | 0.0500 |" in text and "1 of 2 runs unfinished" in text
    assert "hit@10 of IDs" in text
    tex = latex([table])
    assert "A\\_1 & \\textbf{0.3000 $\\pm$ 0.1414} & \\underline{0.2000 $\\pm$ 0.1414}" in tex
    body = [line for line in tex.splitlines() if line.endswith("\\\\")]
    assert len({line.count("&") for line in body}) == 1 and len(body) == 4


def test_every_figure_is_in_csv_and_json(tmp_path):
    table = build_table("t", GROUPS)
    lines = list(csv.DictReader(comma_separated([table]).splitlines()))
    (line,) = [line for line in lines if (line["label"], line["figure"]) == ("A_1", "hit@10")]
    assert float(line["mean"]) == pytest.approx(0.3) and float(line["std"]) == pytest.approx(0.02**0.5) and line["seeds"] == "2"
    write_tables([table], tmp_path)
    (written,) = json.loads((tmp_path / "table.json").read_text())["tables"]
    assert written["rows"][0]["figures"]["ndcg@10"]["values"] == [0.1, 0.3]
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".tex", ".csv", ".json"}


def test_equal_means_share_their_place():
    groups = {label: [record(**{"hit@10": value})] for label, value in (("a", 0.2), ("b", 0.2), ("c", 0.1))}
    places = [row.cells["hit@10"].place for row in build_table("t", groups).rows]
    assert places == [1, 1, 2]
    only = build_table("t", {"a": [record(**{"hit@10": 0.2})]})
    assert only.rows[0].cells["hit@10"].place == 0


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json({"a": 1}, tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
