"""``benchmark fuse``: a fusion of trained models of a comparison, as a further row of its tables."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, write_tiny_dataset
from helpers import as_words, write_features
from small_models import SMALL

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.comparison import candidates_remark, write_and_print_tables
from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.runs import RunSpec, open_comparison, run_folder, write_run_spec
from recbole_macrec.benchmark.compare.statistics import user_values
from recbole_macrec.benchmark.fuse.command import _metrics, best_candidates, fuse, overlap, score_candidates
from recbole_macrec.benchmark.fuse.members import Member
from recbole_macrec.benchmark.fuse.score_file import ScoreFile
from recbole_macrec.benchmark.report import provenance
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.weighted import choose_weights, fused_scores, target_ranks
from recbole_macrec.utils.sorted_rows import distinct

MODELS = ("TIGER", "SASRec", "BPR")  # generative, sequential and general
NAME = "TIGER + SASRec + BPR"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """A finished comparison of three models and their fusion."""
    data_path = write_tiny_dataset(tmp_path_factory.mktemp("data"))
    write_features(data_path / TINY, "text")
    settings = {**SMALL, "modalities": "['text']", "epochs": 3, "topk": "[1,5,10]"}
    folder = tmp_path_factory.mktemp("run") / "compared"
    words = ["compare", f"--models={','.join(MODELS)}", f"--datasets={TINY}", f"--data_path={data_path}", f"--output={folder}",
             *as_words(settings)]  # fmt: skip
    assert main(words) == 0
    assert main(["fuse", str(folder), f"--models={','.join(MODELS)}", "--top=12"]) == 0
    assert main(words) == 0  # finds everything finished
    return folder


def fused_run(folder: Path):
    return next(run for run in open_comparison(folder).runs if run.spec.label == NAME)


def test_seen_items_are_not_candidates_with_exclude_seen(tmp_path):
    data_path = write_tiny_dataset(tmp_path / "data")
    write_features(data_path / TINY, "text")
    settings = {**SMALL, "modalities": "['text']", "epochs": 2, "topk": "[1,5,10]", "exclude_seen": True}
    folder = tmp_path / "compared"
    assert main(["compare", "--models=TIGER,SASRecPerUser", f"--datasets={TINY}", f"--data_path={data_path}", "--state=ERROR",
                 f"--output={folder}", *as_words(settings)]) == 0  # fmt: skip
    fuse(folder, ("TIGER", "SASRecPerUser"), 30)
    runs = open_comparison(folder).runs
    assert len(runs) == 3 and not any(run.result["history_ranked"] for run in runs)
    for run in runs:
        for row, history in enumerate(run.ranks.histories):
            assert not set(run.ranks.top[row]) & (set(history) - {0, run.ranks.targets[row]}), run.spec.label
    for run in runs[:2]:
        member = Member(run)
        everything = np.tile(np.arange(1, 31), (len(member.rows("test", 30).best), 1))
        assert (member.scores("test", everything) == -np.inf).any(1).all()


def test_fuses_after_the_data_were_moved(comparison, tmp_path):
    before = fused_run(comparison).result["fusion"]["weights"]
    data_path = Path(open_comparison(comparison).runs[0].spec.settings["data_path"])
    moved = data_path.rename(tmp_path / "moved")
    try:
        fuse(comparison, MODELS, 13, str(moved))
    finally:
        moved.rename(data_path)
    assert fused_run(comparison).result["fusion"]["candidates_per_model"] == 13
    fuse(comparison, MODELS, 12)
    assert fused_run(comparison).result["fusion"]["weights"] == before


def compare_with_short_user(folder: Path, n_interactions: int) -> Path:
    """A finished comparison of Pop and SASRec on a dataset with one user of ``n_interactions``."""
    data_path = write_tiny_dataset(folder / "data")
    with open(data_path / TINY / f"{TINY}.inter", "a", encoding="utf-8") as file:
        file.writelines(f"short\ti{step + 1}\t{step}\n" for step in range(n_interactions))
    words = [f"--datasets={TINY}", f"--data_path={data_path}", f"--output={folder / 'compared'}", "--epochs=1", "--state=ERROR"]
    assert main(["compare", "--models=Pop,SASRec", *words]) == 0
    return folder / "compared"


def test_weights_are_chosen_on_the_validation_rows_of_all_models(tmp_path, capsys):
    """RecBole gives a user with 3 interactions a validation row for general models only. A failed run of another model is no
    obstacle."""
    folder = compare_with_short_user(tmp_path, 3)
    known, failed = read_json(folder / "compare.json"), RunSpec("EASE", "EASE", TINY, 2020)
    write_json({**known, "labels": [*known["labels"], "EASE"]}, folder / "compare.json")
    write_run_spec(run_folder(folder, TINY, "EASE", 2020), failed).fail("out of memory")
    capsys.readouterr()
    assert main(["fuse", str(folder), "--models=Pop,SASRec", "--top=12"]) == 0
    assert "chosen on 40 validation rows; 1 are left out" in capsys.readouterr().out
    assert main(["fuse", str(folder), "--models=SASRec,Pop", "--top=12"]) == 0
    first, second = [run.result for run in open_comparison(folder).runs if " + " in run.spec.label]
    assert first["test_rows"] == 41 and first["test_result"] == second["test_result"]
    assert first["best_valid_score"] == second["best_valid_score"]


def test_different_test_rows_are_an_error_without_a_new_folder(tmp_path, capsys):
    """RecBole gives a user with 2 interactions a test row for general models only."""
    folder = compare_with_short_user(tmp_path, 2)
    before = set((folder / "runs").rglob("*"))
    assert main(["fuse", str(folder), "--models=Pop,SASRec", "--top=12"]) == 1
    assert "Pop and SASRec have different test rows, for instance of user 'short'" in capsys.readouterr().err
    assert {path.name for path in set((folder / "runs").rglob("*")) - before} == {"fusion_test.npz"}


def test_another_top_replaces_the_row(comparison):
    run = fused_run(comparison)
    before = run.result
    fuse(comparison, MODELS, 20)
    assert fused_run(comparison).result["fusion"]["candidates_per_model"] == 20
    fuse(comparison, MODELS, 12)
    again = fused_run(comparison)
    assert again.spec == run.spec and again.result["test_result"] == before["test_result"]


def test_three_users_by_hand():
    absent = -torch.inf
    scores = torch.tensor([
        [[-1.0, -2.0, -3.0], [-1.0, -2.0, absent], [-3.0, -1.0, -2.0]],
        [[-4.0, -1.0, -1.0], [-2.0, -2.0, absent], [-1.0, -1.0, -5.0]],
    ])  # fmt: skip
    fused = fused_scores(scores, torch.tensor([1.0, 0.5]))
    assert fused.tolist() == [[-3.0, -2.5, -3.5], [-2.0, -3.0, absent], [-3.5, -1.5, -4.5]]
    row, column = torch.tensor([0, 1, 2]), torch.tensor([2, 0, -1])
    assert target_ranks(fused, row, column, lowest=99).tolist() == [3, 1, 99]
    assert target_ranks(torch.zeros(1, 3), torch.tensor([0, 0]), torch.tensor([0, 2]), 99).tolist() == [1, 3]


def test_the_best_candidates_are_in_the_order_of_the_ranks():
    """Also candidates of equal scores, such as items that were never interacted with."""
    items, fused = np.arange(1, 41)[None], torch.zeros(1, 40)
    fused[0, 20], fused[0, :15] = 1.0, -torch.inf
    assert best_candidates(items, fused, 5).tolist() == [[21, 16, 17, 18, 19]]
    assert best_candidates(items, fused, 50).tolist() == [[21, *range(16, 21), *range(22, 41), *[0] * 25]]


def test_a_candidate_that_one_model_excludes_is_excluded():
    """As by a general model, which does not rank items of the history; for any order of the models."""
    scores = torch.randn(2, 200, 20, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    scores[1, :, 3] = -torch.inf
    row, excluded, other = torch.arange(200), torch.full((200,), 3), torch.full((200,), 7)

    def quality(fused):
        return float(user_values(target_ranks(fused, row, other, 99).numpy(), "ndcg@10").mean())

    for ordered in (scores, scores.flip(0)):
        weights, best = choose_weights(ordered, quality)
        fused = fused_scores(ordered, weights)
        assert weights.isfinite().all() and 0 < best < 0.5
        assert fused[:, 3].isneginf().all() and fused[:, [2, 4]].isfinite().all()
        assert (target_ranks(fused, row, excluded, 99) == 99).all()


def test_candidates_are_the_union_of_all_lists():
    assert distinct(torch.tensor([[3, 1, 3, 2], [5, 0, 5, 5]])).tolist() == [[1, 2, 3], [5, 0, 0]]


def test_weights_of_a_random_model_and_of_two_complementary_models():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, 4000, 20, generator=generator)
    noise = torch.randn(1, 4000, 20, generator=generator)
    row, column = torch.arange(4000), torch.zeros(4000, dtype=torch.long)
    signal[:, :, 0] += 1.5  # the target, in two independent models

    def quality(fused):
        return float(user_values(target_ranks(fused, row, column, 99).numpy(), "ndcg@10").mean())

    weights, best = choose_weights(torch.cat([signal, noise]).log_softmax(-1), quality)
    assert weights[2] < 0.2 * weights[:2].min() and weights.sum().item() == pytest.approx(1)
    assert best > max(quality(scores) for scores in signal) + 0.05


def test_tables_have_a_row_for_the_fused_run(comparison):
    (table,) = json.loads((comparison / "table.json").read_text())["tables"]
    assert [row["label"] for row in table["rows"]] == [*MODELS, NAME]
    assert any(NAME in (test["first"], test["second"]) for test in table["tests"])
    run = fused_run(comparison)
    for metric in ("hit@10", "ndcg@10", "hit@1"):
        own = user_values(run.ranks.ranks, metric).mean()
        assert run.result["test_result"][metric] == pytest.approx(own, abs=1e-4)
    found = run.result["fusion"]["overlap"]
    assert found["oracle"] >= max(found["hit"].values()) > 0
    assert "BPR cannot read the validation items of the test users" in table["test_notes"][-1]
    assert "weights" in table["test_notes"][-1] and "chosen on validation" in (comparison / "table.md").read_text()
    assert main(["report", str(comparison)]) == 0
    grid = provenance.runs(open_comparison(comparison), TINY, ["ndcg@10"])
    (cells,) = (row for row in grid.rows if row[0].text == NAME)
    assert cells[3].text == f"{run.result['best_valid_score']:.4f}"


def test_a_target_at_the_last_place_of_the_list_is_a_hit(comparison):
    member = Member(next(run for run in open_comparison(comparison).runs if run.spec.label == "TIGER"))
    ranks = fused_run(comparison).ranks
    metrics = _metrics(member, replace(ranks, ranks=np.full_like(ranks.ranks, 10)))
    assert (metrics["hit@5"], metrics["hit@10"]) == (0, 1)


def test_tables_name_the_rows_with_other_candidates(comparison):
    """RecBole's general models do not rank the history, and a fusion with one does not either."""
    (table,) = json.loads((comparison / "table.json").read_text())["tables"]
    sentence = f"Ranked without the items of the user's history: BPR, {NAME}."
    assert any(note.startswith(sentence) for note in table["test_notes"])
    same = {label: [run.result] for run in open_comparison(comparison).runs if (label := run.spec.label) in ("TIGER", "SASRec")}
    assert candidates_remark(same) == ""


def test_candidates_of_older_results_are_unknown():
    assert candidates_remark({"BPR": [{"history_ranked": False}], "SASRec": [{"history_ranked": True}]})
    assert candidates_remark({"BPR": [{"history_ranked": False}], "LightGCN": [{}]}) == ""


def test_repeated_comparison_keeps_the_fused_row(comparison):
    spec = json.loads((comparison / "compare.json").read_text())
    assert spec["fusions"] == {NAME: list(MODELS)}
    before = fused_run(comparison).result
    assert main(["fuse", str(comparison), f"--models={','.join(MODELS)}", "--top=12"]) == 0
    assert fused_run(comparison).result == before


def test_pairs_with_the_fused_row(comparison, tmp_path, capsys):
    folder = Path(shutil.copytree(comparison, tmp_path / "compared"))
    spec = open_comparison(folder).runs[0].spec
    words = [f"--datasets={TINY}", f"--output={folder}", *as_words(spec.settings)]
    assert main(["compare", f"--models={','.join(MODELS)}", f"--pairs={NAME}:TIGER", *words]) == 0
    table = json.loads((folder / "table.json").read_text())["tables"][0]
    assert {(test["first"], test["second"]) for test in table["tests"]} == {(NAME, "TIGER")}
    assert "--pairs" not in provenance.command(open_comparison(folder))
    assert main(["compare", "--models=TIGER,SASRec", f"--pairs={NAME}:TIGER", *words]) == 1
    assert f"pairs names {NAME}, which is not compared" in capsys.readouterr().err


def test_a_fusion_of_runs_that_were_trained_again_is_left_out_and_replaced(comparison, tmp_path):
    folder = shutil.copytree(comparison, tmp_path / "copied")
    run = next(run for run in open_comparison(folder).runs if run.spec.label == MODELS[0])
    (run.folder / run.result["checkpoint"]).rename(run.folder / "again.pth")
    write_json({**run.result, "checkpoint": "again.pth"}, run.folder / "result.json")
    assert NAME not in {run.spec.label for run in open_comparison(folder).runs}
    write_and_print_tables(open_comparison(folder))
    assert "fused for 0 of 1 seeds; run fuse again" in (folder / "table.md").read_text()
    assert main(["fuse", str(folder), f"--models={','.join(MODELS)}", "--top=12"]) == 0
    assert fused_run(folder).result["fusion"]["checkpoints"][0] == "again.pth"


def test_a_model_is_not_fused_on_other_data(comparison, tmp_path):
    run = open_comparison(comparison).runs[0]
    source = Path(run.spec.settings["data_path"]) / TINY
    folder = shutil.copytree(source, tmp_path / "data" / TINY)
    assert Member(run, str(tmp_path / "data")).label == run.spec.label
    file = folder / f"{TINY}.inter"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=f"other data: {TINY}.inter has changed"):
        Member(run, str(tmp_path / "data"))


def test_scores_of_candidates_agree_with_the_rankings_of_the_runs(comparison):
    """The models may number items differently; each ranks the candidates as in its own run."""
    runs = {run.spec.label: run for run in open_comparison(comparison).runs}
    members = [Member(runs[label]) for label in MODELS]
    scored = score_candidates(members, "test", 12)
    for label, scores in zip(MODELS, scored.scores):
        own = runs[label].ranks
        rank = dict(zip(own.keys(), own.ranks.tolist()))
        for key, found in zip(scored.rows.keys(members[0].tokens), scored.ranks(scores, 99).tolist()):
            assert found == rank[key] or min(found, rank[key]) > 10


def test_hits_of_the_models_are_counted_among_the_items_of_the_fusion(comparison):
    """BPR excludes the items of the history, so TIGER and SASRec are ranked without them, too."""
    runs = {run.spec.label: run for run in open_comparison(comparison).runs}
    scored = score_candidates([Member(runs[label]) for label in MODELS], "test", 12)
    hits = dict.fromkeys(MODELS, 0)
    differs = False
    for row, scores in enumerate(scored.scores.transpose(0, 1)):
        items = [column for column in range(scores.shape[1]) if scores[:, column].isfinite().all()]
        target = scored.column[scored.rows.row == row].item()
        for label, own in zip(MODELS, scores):
            hit = target in sorted(items, key=lambda column: -own[column])[:10]
            hits[label] += hit
            differs |= hit != (target in (-own).argsort(stable=True)[:10])
    overlaps = fused_run(comparison).result["fusion"]["overlap"]
    assert overlaps["hit"] == {label: pytest.approx(count / len(scored.items), abs=1e-6) for label, count in hits.items()}
    assert differs


def test_a_weight_of_zero_is_tried_again():
    """The first model only harms until the second one has a large weight."""
    scores = torch.eye(2).unsqueeze(1)  # the fused scores are the weights

    def quality(fused: torch.Tensor) -> float:
        first, second = fused[0].tolist()
        return 1 + min(first, 1) if second > 3 else -first

    weights, best = choose_weights(scores, quality)
    assert best == 2 and weights[0] > 0


def test_published_fusion_contains_weights_and_command(comparison, tmp_path):
    assert main(["publish", str(comparison), f"--to={tmp_path / 'results'}"]) == 0
    (file,) = (tmp_path / "results").rglob("*TIGER-+-SASRec-+-BPR*.json")
    content = json.loads(file.read_text())
    assert content["command"] == "python -m recbole_macrec.benchmark fuse DIR --models=TIGER,SASRec,BPR --top=12"
    assert sum(content["fusion"]["weights"]) == pytest.approx(1, abs=1e-5) and content["seconds"]["cpu"] > 0


def test_weights_depend_on_validation_data_only(comparison, monkeypatch):
    """With other test targets the weights are the same."""
    weights = fused_run(comparison).result["fusion"]["weights"]
    original, seen = Member.rows, []

    def changed(self, split, top):
        rows = original(self, split, top)
        if split == "test":
            seen.append(split)
            rows.target[:] = 1 + rows.target % 29
        return rows

    monkeypatch.setattr(Member, "rows", changed)
    run = fused_run(comparison)
    before = run.result["test_result"]
    (run.folder / "result.json").unlink()
    fuse(comparison, MODELS, 12)
    again = fused_run(comparison).result
    assert seen and again["fusion"]["weights"] == weights and again["test_result"] != before
    monkeypatch.undo()
    (run.folder / "result.json").unlink()
    fuse(comparison, MODELS, 12)
    assert fused_run(comparison).result["test_result"] == before


def test_later_fusions_read_rankings_and_scores_from_the_folders_of_the_runs(comparison, monkeypatch):
    run = fused_run(comparison)
    before = run.result

    def fail(self, *args):
        raise AssertionError("computed again")

    monkeypatch.setattr(Member, "_compute_best", fail)
    monkeypatch.setattr(Member, "_compute_scores", fail)
    (run.folder / "result.json").unlink()
    fuse(comparison, MODELS, 12)
    again = fused_run(comparison).result
    assert {**again, "seconds": None} == {**before, "seconds": None}  # users_per_second among them


def test_score_file_computes_what_is_missing(tmp_path):
    """Rows 0 and 1 of 6 items; the score of an item is 10 * row + item."""
    computed = []

    def compute(items):
        computed.append(items.tolist())
        return np.where(items > 0, 10.0 * np.arange(len(items))[:, None] + items, -np.inf), 2.0

    file = ScoreFile(tmp_path / "scores.npz", "digest", 6)
    assert file.scores(np.array([[1, 3], [2, 0]]), compute).tolist() == [[1, 3], [12, -np.inf]]
    again = ScoreFile(tmp_path / "scores.npz", "digest", 6)
    assert again.scores(np.array([[1, 5, 3], [4, 2, 5]]), compute).tolist() == [[1, 5, 3], [14, 12, 15]]
    assert computed == [[[1, 3], [2, 0]], [[5, 0], [4, 5]]]
    assert again.seconds == pytest.approx(4.0)  # six pairs, computed in two calls of 2 seconds
    assert again.best(2, lambda: (np.array([[5, 4], [1, 2]]), 1.0)).tolist() == [[5, 4], [1, 2]]
    third = ScoreFile(tmp_path / "scores.npz", "digest", 6)
    assert third.best(2, lambda: (np.zeros((2, 2)), 1.0)).tolist() == [[5, 4], [1, 2]]
    assert third.best(1, lambda: (np.array([[4], [1]]), 1.0)).tolist() == [[4], [1]]  # of fewer beams
    ScoreFile(tmp_path / "scores.npz", "other checkpoint", 6).scores(np.array([[1, 3], [2, 0]]), compute)
    assert computed[2:] == [[[1, 3], [2, 0]]]


def test_damaged_score_file(tmp_path):
    (tmp_path / "scores.npz").write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"scores.npz can't be read \(.*\); delete it and fuse again"):
        ScoreFile(tmp_path / "scores.npz", "digest", 6)


@pytest.mark.parametrize("words, message", [
    (["--models=TIGER"], "at least two different labels"),
    (["--models=TIGER,SASREC"], "Did you mean 'SASRec'"),
    (["--models=TIGER,SASRec", "--top=5"], "top is 5; expected a whole number >= 10"),
])  # fmt: skip
def test_invalid_arguments_are_one_line_errors(comparison, words, message, capsys):
    assert main(["fuse", str(comparison), *words]) != 0
    assert message in capsys.readouterr().err


def test_weights_are_chosen_by_metrics_of_ranks_only(comparison, monkeypatch):
    read = Member.__init__

    def changed(self, *args):
        read(self, *args)
        self.config["valid_metric"] = "ItemCoverage@10"

    monkeypatch.setattr(Member, "__init__", changed)
    monkeypatch.setattr(Member, "rows", lambda *args: pytest.fail("scored before the check"))
    with pytest.raises(UserError, match="^valid_metric is ItemCoverage@10, by which the weights are chosen; expected Hit@k"):
        fuse(comparison, MODELS, 13)


def test_a_fusion_is_not_fused_again(tmp_path, capsys):
    """Neither a current one nor one that is left out of the tables, because its models were trained again."""
    spec = {"format": 1, "labels": ["A", "B", "C"], "datasets": [TINY], "seeds": [1], "pairs": []}
    write_json(spec | {"fusions": {"A + B": ["A", "B"]}}, tmp_path / "compare.json")
    for label in ("A", "B", "C", "A + B"):
        run = write_run_spec(run_folder(tmp_path, TINY, label, 1), RunSpec(label, label, TINY, 1))
        record = {"test_result": {}, "checkpoint": f"{label}.pth", "fusion": {"checkpoints": ["A.pth", "B.pth"]}}
        write_json(record, run.folder / "result.json")
    for checkpoint in ("A.pth", "again.pth"):
        write_json({"test_result": {}, "checkpoint": checkpoint}, run_folder(tmp_path, TINY, "A", 1) / "result.json")
        assert main(["fuse", str(tmp_path), "--models=A + B,C"]) == 1
        expected = "error: --models names A + B, which is a fusion itself; name the models that it fuses.\n"
        assert capsys.readouterr().err == expected


def test_overlap_of_hits():
    ranks = {"a": np.array([1, 9, 0, 3]), "b": np.array([2, 20, 5, 30])}
    found = overlap(ranks, np.arange(4), 10)
    assert found == {"k": 10, "hit": {"a": 0.75, "b": 0.5}, "oracle": 1.0}


@pytest.mark.parametrize("label", ["SASRec", "BPR"])
def test_scores_of_recboles_models_are_log_probabilities(label, comparison):
    """Of a softmax over all items."""
    (run,) = [run for run in open_comparison(comparison).runs if run.spec.label == label]
    member = Member(run)
    items = torch.from_numpy(member.rows("test", 12).best).long()
    found = torch.from_numpy(member.scores("test", items.numpy())).double()
    scores = torch.cat([member.trainer._full_sort_batch_eval(batch)[1] for batch in member.loaders["test"]]).double()
    expected = (scores - scores.exp().sum(1, keepdim=True).log()).gather(1, items).masked_fill(items == 0, -torch.inf)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
