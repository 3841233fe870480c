"""``compare --tune``: search spaces, trials, and the choice of the best trial by validation."""
import json
import shutil
from pathlib import Path

import pytest

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare import comparison, tune
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import Run, open_comparison
from recbole_macrec.config.options import check_options, known_models
from recbole_macrec.config.property_files import property_file
from recbole_macrec.config.registry import model_names
from recbole_macrec.errors import UserError

FILES = sorted(path for path in property_file("hyper").glob("*.hyper") if path.stem in known_models())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_search_spaces_contain_options_of_their_model(path):
    space = tune.read_space(path.stem)
    check_options(space, [path.stem], "arts-toy", str(path))
    assert space or path.stem == "Pop"


def test_our_models_and_common_baselines_have_a_search_space():
    named = {path.stem for path in FILES}
    assert named >= {*model_names(), "SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec", "LightGCN"}


def test_trials_are_reproducible_distinct_and_keep_set_options():
    trials = tune.draw_tries("SASRec", {"n_layers": 2}, 6, seed=1)
    assert trials == tune.draw_tries("SASRec", {"n_layers": 2}, 6, seed=1) != tune.draw_tries("SASRec", {}, 6, seed=1)
    assert trials[0] == {} and len({json.dumps(settings) for settings in trials}) == 6
    assert trials[1:] != tune.draw_tries("SASRec", {"n_layers": 2}, 6, seed=2)[1:]
    assert all("n_layers" not in settings for settings in trials)
    assert tune.draw_tries("Pop", {}, 6, seed=1) == [{}]


def test_small_search_space_is_exhausted(monkeypatch):
    monkeypatch.setattr(tune, "read_space", lambda model: {"a": ("choice", [1, 2])})
    trials = tune.draw_tries("SASRec", {}, 9, seed=1)
    assert trials[0] == {} and sorted(settings["a"] for settings in trials[1:]) == [1, 2]
    assert tune.draw_tries("SASRec", {}, 9, 1, default={"a": 2}) == [{}, {"a": 1}]


def test_search_space_lines_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "property_file", lambda *parts: tmp_path / parts[-1])
    (tmp_path / "M.hyper").write_text("a loguniform -2, 0\nb quniform 0.0,1.0,0.25\n\nc uniform 1,2\nd choice ['x', 'y']\n")
    drawn = tune.draw_tries("M", {}, 20, seed=0)[1:]
    for settings in drawn:
        assert 0.13 < float(settings["a"]) < 1 and float(settings["b"]) * 4 % 1 == 0 and 1 <= float(settings["c"]) <= 2
        assert settings["d"] in "xy"
    assert {settings["b"] for settings in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}  # numbers are rounded to the nearest multiple
    for line in ("a choice 3,4", "a normal 0,1", "a uniform 1", "a", "a choice []", "a uniform __import__('os'),1"):
        (tmp_path / "M.hyper").write_text(line)
        with pytest.raises(UserError, match="expected an option"):
            tune.read_space("M")
    with pytest.raises(UserError, match="no hyper-parameter file"):
        tune.read_space("N")


def test_the_chosen_trial_is_not_repeated_on_another_gpu_or_with_moved_data(tmp_path, monkeypatch):
    """Its settings are those with an effect on the results; where it was executed is none of them."""
    monkeypatch.setattr(tune, "read_space", lambda model: {"n_layers": ("choice", [1, 3])})
    monkeypatch.setattr(tune, "checked_options", lambda model, request: {})
    for execution in ({"data_path": "old", "gpu_id": "0"}, {"data_path": "moved"}):
        matrix = Matrix([Variant("SASRec", "SASRec")], ["tiny"], [1], execution)
        tries = tune.write_tries(matrix, tmp_path, 2)
        for number, a_try in enumerate(tries["tiny", "SASRec"]):
            record = {"test_result": {}, "best_valid_score": number, "valid_score_bigger": True}
            write_json(record, a_try.folder / "result.json")
        chosen = tune.choose(matrix, tmp_path, tries)
        assert list(chosen["tiny", "SASRec"]) == ["n_layers"]
    comparison = matrix.write(tmp_path, chosen)
    tune.copy_chosen_tries(comparison, tries)
    assert [run.result["best_valid_score"] for run in comparison.runs] == [1]


def test_the_best_trial_has_the_smallest_value_of_a_metric_such_as_gini(tmp_path, monkeypatch):
    """Settings of a variant precede those of all variants, and are not tuned."""
    monkeypatch.setattr(tune, "read_space", lambda model: {"n_layers": ("choice", [1, 3]), "n_heads": ("choice", [2])})
    monkeypatch.setattr(tune, "checked_options", lambda model, request: {})
    matrix = Matrix([Variant("SASRec", "SASRec", {"n_heads": 4})], ["tiny"], [1], {"n_heads": 1})
    tries = tune.write_tries(matrix, tmp_path, 3)
    for a_try, score in zip(tries["tiny", "SASRec"], (0.5, 0.25, 0.75)):
        assert a_try.spec.settings["n_heads"] == 4
        write_json({"test_result": {}, "best_valid_score": score, "valid_score_bigger": False}, a_try.folder / "result.json")
    best = tries["tiny", "SASRec"][1].spec.settings["n_layers"]
    assert tune.choose(matrix, tmp_path, tries) == {("tiny", "SASRec"): {"n_layers": best}}


def test_another_number_of_trials_is_refused_after_the_choice(tmp_path, monkeypatch):
    """Another choice would be made from other trials than the run has."""
    monkeypatch.setattr(tune, "read_space", lambda model: {"n_layers": ("choice", [1, 2, 3])})
    monkeypatch.setattr(tune, "checked_options", lambda model, request: {})
    matrix = Matrix([Variant("SASRec", "SASRec")], ["tiny"], [1], {})
    for number in 2, 3:  # not yet chosen
        tries = tune.write_tries(matrix, tmp_path, number)
    for a_try in tries["tiny", "SASRec"]:
        record = {"test_result": {}, "best_valid_score": 0.5, "valid_score_bigger": True}
        write_json(record, a_try.folder / "result.json")
    tune.choose(matrix, tmp_path, tries)
    tune.write_tries(matrix, tmp_path, 3)
    for number in 2, 4:
        with pytest.raises(UserError, match="SASRec on tiny were chosen from 3 tries; give --tune=3, or another --output"):
            tune.write_tries(matrix, tmp_path, number)


def test_tuning_without_validation_is_refused(tiny_dataset, tmp_path):
    matrix = Matrix([Variant("GRU4Rec", "GRU4Rec")], ["tiny"], [1], {"data_path": str(tiny_dataset), "eval_step": 0})
    with pytest.raises(UserError, match=r"eval_step is 0 \(no validation\); set it to at least 1"):
        tune.write_tries(matrix, tmp_path, 2)
    assert not list(tmp_path.rglob("try-*"))


def test_failed_trials_are_repeated_only_before_the_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "read_space", lambda model: {"n_layers": ("choice", [1, 3])})
    monkeypatch.setattr(tune, "checked_options", lambda model, request: {})
    matrix = Matrix([Variant("SASRec", "SASRec")], ["tiny"], [1], {})
    tries = tune.write_tries(matrix, tmp_path, 2)
    first, second = tries["tiny", "SASRec"]
    write_json({"test_result": {}, "best_valid_score": 0.5, "valid_score_bigger": True}, first.folder / "result.json")
    second.fail("no memory")
    assert tune.tries_to_run(tries) == [first, second]
    tune.choose(matrix, tmp_path, tries)
    assert tune.tries_to_run(tries) == [first]


def test_comparison_uses_the_best_trial_by_validation(tiny_dataset, monkeypatch):
    """One of three trials has learning rate 0. The best trial is the run of the first seed; other seeds use its settings."""
    monkeypatch.setattr(tune, "read_space", lambda model: {"learning_rate": ("choice", [0.0, 0.02])})
    argv = ["compare", "--models=GRU4Rec", "--datasets=tiny", f"--data_path={tiny_dataset}", "--tune=3", "--output=out"]
    argv += ["--epochs=3", "--state=ERROR", "--seeds=2"]
    assert main(argv) == 0
    best = json.loads(Path("out/tune/tiny/GRU4Rec/best.json").read_text())
    trials = [Run(path) for path in sorted(Path("out/tune/tiny/GRU4Rec").glob("try-*"))]
    scores = [run.result["best_valid_score"] for run in trials]
    assert len(set(scores)) == 3 and best["best_valid_score"] == max(scores)
    assert [run.spec.settings.get("learning_rate") for run in trials][0] is None
    assert best["settings"] == {"learning_rate": 0.02}
    first, second = open_comparison("out").runs
    assert first.result == trials[scores.index(max(scores))].result and (first.folder / first.result["checkpoint"]).is_file()
    assert first.spec.settings["learning_rate"] == second.spec.settings["learning_rate"] == 0.02
    assert (first.spec.seed, second.spec.seed) == (2020, 2021) and second.result["best_valid_score"] != max(scores)

    chosen = trials[scores.index(max(scores))].folder / "run_spec.json"
    chosen.write_text(json.dumps({k: v for k, v in json.loads(chosen.read_text()).items() if k != "data"}))
    shutil.rmtree(first.folder)
    monkeypatch.setattr(comparison, "run_all", lambda *args: None)
    main(argv)
    assert Run(first.folder).result == first.result  # also if the try is older than checksums of the data
