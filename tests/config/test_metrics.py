"""Metrics that do not fit the ranking of a model are refused in one sentence before any data are read."""
from pathlib import Path

import pytest
from recbole.config import Config

from recbole_macrec import UserError
from recbole_macrec.benchmark.__main__ import main as benchmark
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.config.registry import model_names

FUSED = {"decode": "fused", "network": "decoder_only", "dense_head": True}
PARTIAL = [
    *(("TIGER", decode) for decode in ({"decode": "beam"}, {"decode": "certified"}, FUSED)),
    ("MMGRec", {"decode": "beam"}), ("MMGRec", {"decode": "certified"}), ("P5", {}), ("VIP5", {}), ("LCRec", {}),
]  # fmt: skip


def read(model: str, **options) -> Config:
    return Config(model, "no such dataset", config_dict={"valid_metric": "Hit@10", **options})


def with_mode(mode) -> dict:
    return {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}


@pytest.mark.parametrize("model, options", PARTIAL)
def test_metrics_of_the_whole_order_need_a_ranking_of_all_items(model, options):
    with pytest.raises(UserError) as error:
        read(model, metrics=["Hit", "GAUC"], **options)
    message = str(error.value)
    assert message.startswith("metrics contains GAUC, which needs a ranking of all items, but decode: ")
    assert message.endswith("remove the metric.") and ("set decode: exact, or" in message) == (model in ("TIGER", "MMGRec"))
    if options.get("decode") != "fused":
        read(model, metrics=["Hit", "GAUC"], eval_args=with_mode("uni20"), **options)  # every candidate has an exact score


@pytest.mark.parametrize("model", ["MQL4GRec", "MACRec"])
def test_the_official_fusion_does_not_rank_all_items(model):
    options = {"decode": "exact", "fusion": "official", "metrics": ["Hit", "GAUC"]}
    with pytest.raises(UserError, match="^metrics contains GAUC, .* but fusion: official ranks only .*; set fusion: mean"):
        read(model, **options)
    read(model, **options, eval_args=with_mode("uni20"))
    read(model, **{**options, "metrics": ["Hit"]})


@pytest.mark.parametrize("model, options", [
    ("MACRec", {"decode": "exact", "fusion": "mean"}), ("MQL4GRec", {"decode": "exact", "fusion": "lse"}),
    ("TIGER", {"decode": "exact"}), ("MMGRec", {"decode": "exact"}), ("SASRecPerUser", {}), ("VBPR", {}), ("BPR", {}),
    ("SASRec", {"train_neg_sample_args": None}),
])  # fmt: skip
def test_metrics_of_the_whole_order_of_models_that_rank_all_items(model, options):
    assert read(model, metrics=["Hit", "GAUC"], **options)["metrics"] == ["Hit", "GAUC"]


@pytest.mark.parametrize("mode", ["full", "uni20", "labeled"])
@pytest.mark.parametrize("model", model_names())
def test_our_models_have_no_metrics_of_labels(model, mode):
    for metric in ("AUC", "logloss", "MAE", "RMSE"):
        with pytest.raises(UserError, match=f"^metrics contains {metric}, which is computed from the labels of samples, but"):
            read(model, metrics=metric, valid_metric=metric, eval_args=with_mode(mode))


@pytest.mark.parametrize("options, expected", [
    ({"metrics": ["AUC"]}, "metrics contains AUC, .* mode of eval_args is full.* set the mode to labeled"),
    ({"metrics": ["AUC"], "eval_args": with_mode({"valid": "uni20", "test": "full"})}, "mode of eval_args is full"),
    ({"metrics": ["Hit", "RMSE"], "eval_args": with_mode("uni20")}, "metrics contains RMSE, .* and Hit, which .* Remove one"),
    ({"metrics": ["Hit"], "eval_args": with_mode("labeled")}, "metrics contains Hit, .* labeled.* set the mode to full"),
    ({"metrics": ["HIT", "NDGC"]}, "There is no metric named 'NDGC'. Did you mean 'ndcg'?"),
])  # fmt: skip
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_metrics_that_recbole_cannot_compute(model, options, expected):
    with pytest.raises(UserError, match=expected.replace("?", r"\?")):
        read(model, **options)


def test_recbole_computes_metrics_of_labels_of_its_own_models(tiny_dataset, capsys):
    words = ["--dataset=tiny", f"--data_path={tiny_dataset}", "--epochs=1", "--show_progress=False", "--state=ERROR"]
    words += ["--metrics=['AUC']", "--valid_metric=AUC", f"--eval_args={with_mode('uni20')}"]
    assert main(["--model=BPR", *words]) == 0
    assert "auc" in capsys.readouterr().out


@pytest.mark.parametrize("words, expected", [
    (["--models=Pop,BPR", "--metrics=['AUC']", "--valid_metric=AUC", f"--eval_args={with_mode('uni20')}"],
     "error: metrics is ['AUC'], computed from the labels of samples, but a comparison "),
    (["--models=Pop,TIGER", "--metrics=['Hit','GAUC']", "--valid_metric=Hit@5", "--decode=certified"],
     "error: metrics contains GAUC"),
    (["--models=Pop", "--metrics=['NDGC']"], "error: There is no metric named 'NDGC'"),
])  # fmt: skip
def test_comparisons_refuse_them_before_they_write_files(words, expected, tiny_dataset, capsys):
    assert benchmark(["compare", "--datasets=tiny", f"--data_path={tiny_dataset}", "--output=out", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(expected) and error.count("\n") == 1 and not Path("out").exists()


def test_names_in_a_list_need_no_quotes():
    assert read("SASRec", metrics="[Recall,NDCG]", valid_metric="NDCG@10")["metrics"] == ["Recall", "NDCG"]
