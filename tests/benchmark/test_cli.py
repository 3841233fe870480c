"""``run_recbole_macrec.py``: tables, result files, and one-line errors."""
import json
import re
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import recbole
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recbole_macrec.benchmark.__main__ import main as benchmark
from recbole_macrec.benchmark.compare import comparison, run_command
from recbole_macrec.benchmark.compare.run_command import main
from recbole_macrec.benchmark.compare.runs import open_comparison
from recbole_macrec.benchmark.study import study
from recbole_macrec.config.options import known_models, known_options
from recbole_macrec.utils.failures import user_message

QUICK = ["--epochs=1", "--show_progress=False", "--state=ERROR"]


@pytest.fixture
def tiny(tiny_dataset) -> list[str]:
    """Arguments of a quick run on the dataset ``tiny``."""
    return ["--dataset=tiny", f"--data_path={tiny_dataset}", *QUICK]


def failure(capsys, *argv: str) -> str:
    """Run a command that must fail and return its only line on stderr."""
    assert main(list(argv)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_one_model_writes_a_result_file(tiny, tmp_path, capsys):
    assert main(["--model=SASRec", *tiny, "--result_file=out/sasrec.json", "--seed=7"]) == 0
    record = json.loads((tmp_path / "out" / "sasrec.json").read_text())
    assert record["model"] == "SASRec" and record["dataset"] == "tiny" and record["seed"] == 7
    assert set(record["test_result"]) == {f"{m}@{k}" for m in ("hit", "ndcg") for k in (1, 5, 10)}
    assert record["best_valid_result"]["hit@10"] > 0
    assert record["settings"]["MAX_ITEM_LIST_LENGTH"] == 20
    assert record["versions"]["recbole"] == recbole.__version__ and record["hardware"]["cores"] >= 1
    assert record["parameters"] > 1000 and record["semantic_ids"] == {}
    seconds = record["seconds"]
    assert min(seconds["data"], seconds["training"], seconds["validation"], seconds["test"]) > 0
    assert seconds["total"] >= seconds["data"] + seconds["training"] + seconds["validation"] + seconds["test"]
    assert "hit@10" in capsys.readouterr().out


def test_several_models_share_one_table(tiny, tmp_path, capsys):
    argv = ["--model=Pop,SASRec,S3Rec", *tiny, "--pretrain_epochs=1", "--item_attribute=categories"]
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]}
    assert main([*argv, f"--load_col={columns}"]) == 0
    (folder,) = (tmp_path / "results").glob("tiny-*")
    runs = [run.result for run in open_comparison(folder).runs]
    assert [run["model"] for run in runs] == ["Pop", "SASRec", "S3Rec"]
    assert {run["settings"]["eval_args"]["order"] for run in runs} == {"TO"}
    assert runs[2]["seconds"]["pretraining"] > 0
    printed, markdown = capsys.readouterr().out, (folder / "table.md").read_text()
    for run in runs:
        assert f"| {run['model']} |" in markdown
        assert f"{run['test_result']['hit@10']:.4f}" in printed


def test_results_do_not_depend_on_the_other_models_of_the_command(tiny, tmp_path):
    assert main(["--model=Pop,GRU4Rec", *tiny, "--output=both"]) == 0
    before = list(sys.argv)
    assert main(["--model=GRU4Rec", *tiny, "--result_file=alone.json"]) == 0
    assert sys.argv == before
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert open_comparison("both").runs[1].result["test_result"] == alone["test_result"]


def logged_losses() -> list[str]:
    (log,) = Path("log", "SASRec").iterdir()
    return re.findall(r"train loss: ([\d.]+)", log.read_text())


def torchrun(words: list[str]) -> None:
    """Run the command in two processes of torchrun's launcher, which forks them; output goes to the file ``out``."""
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                          start_method="fork")  # fmt: skip
    with open("out", "w") as out, redirect_stdout(out):
        codes = elastic_launch(config, main)(words)
    sys.exit(max(codes.values()))


def test_torchrun_and_nproc_give_the_same_results(tiny, tmp_path, process_pool):
    """The last comparison uses untrained models, to compare only the evaluation; with batches of 3 the last batches of the
    processes have different sizes."""
    argv = ["--model=SASRec", *(word for word in tiny if word != "--state=ERROR"), "--learning_rate=0.0", "--eval_batch_size=3"]
    assert process_pool.exit_codes((torchrun, [*argv, "--result_file=torchrun.json"])) == [0]
    assert Path("out").read_text().count("test results") == 1
    losses = logged_losses()
    shutil.rmtree("log")
    assert main([*argv, "--nproc=2", "--result_file=two.json"]) == 0
    assert losses and losses == logged_losses()
    assert main([*argv, "--result_file=one.json"]) == 0
    one, two, third = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two", "torchrun"))
    assert two["test_result"] == pytest.approx(one["test_result"], abs=1e-4) and third["test_result"] == two["test_result"]
    assert set(two) == set(one) == set(third)


def test_config_files_apply_in_order(tiny, tmp_path):
    (tmp_path / "a.yaml").write_text("topk: [2]\nseed: 1\nvalid_metric: NDCG@2\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    assert main(["--model=Pop", *tiny, "--config_files=a.yaml b.yaml", "--result_file=r.json"]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["seed"] == 2 and set(record["test_result"]) == {"hit@2", "ndcg@2"}


def test_config_files_name_model_and_dataset(tiny, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("model: Pop\ndataset: tiny\n")
    words = [word for word in tiny if not word.startswith("--dataset")]
    assert main([*words, "--config_files=a.yaml", "--result_file=r.json"]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["model"], record["dataset"]) == ("Pop", "tiny")
    assert main([*words, "--config_files=a.yaml", "--dataset=elsewhere"]) == 1
    assert "elsewhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--model=MACRec", "--valid_metric=foo"], "valid_metric is 'foo', which is not computed"),
        (["--lamda_con=0.1"], "Unknown option 'lamda_con' in the command line. Did you mean 'lambda_con'?"),
        (["--model=SASRec", "--hiden_size=3"], "Did you mean 'hidden_size'?"),
        (["--model=VBPR", "--use_ids=False"], "It is an option of MISSRec, but not of RecBole, of VBPR or of the dataset"),
        (["--model=macrec"], "Unknown model 'macrec'. Did you mean 'MACRec'?"),
        (["--model=MACRec,SASRek"], "Unknown model 'SASRek'. Did you mean 'SASRec'?"),
        (["--model="], "names no model"),
        (["--model=Pop", "--dataset="], "names no dataset"),
        (["--result_file=."], "--result_file is '.'; expected the name of a file"),
        ([f"--result_file={__file__}/r.json"], "is a file and no folder"),
        (["--seed", "3"], "options are written --key=value"),
        (["--seed=1", "--seed=2"], "--seed is given twice"),
        (["--nproc=two"], "--nproc"),
        (["--nproc=0"], "--nproc is 0"),
        (["--config_files=no.yaml"], "Config file no.yaml can't be read"),
        (["--model=Pop,SASRec", "--result_file=r.json"], "use --output"),
        (["--model=TIGER", "--output=trie"], "set the option in a YAML file with the line 'output: trie'"),
        (["--dataset=arts-toi"], "Did you mean 'arts-toy'?"),
        (["--dataset=ARTS-TOY"], "Did you mean 'arts-toy'?"),
        (["--dataset=Elsewhere", "--data_path=nowhere"], "recbole_macrec.data import SRC --dataset=Elsewhere"),
        (["--model=Pop", "--metrics=['Foo']", "--valid_metric=Foo@10"], "There is no metric named 'Foo'"),
    ],
)
def test_user_errors_are_one_line(argv, expected, capsys):
    assert expected in failure(capsys, *argv)


def test_model_that_needs_labels(tiny, capsys):
    assert "DeepFM is trained on labels, but tiny has no column 'label'" in failure(capsys, "--model=DeepFM", *tiny)
    sampled = "--train_neg_sample_args={'distribution': 'uniform', 'sample_num': 1}"
    assert main(["--model=DeepFM", sampled, *tiny]) == 0


def test_unknown_command_of_the_benchmark(capsys):
    assert benchmark(["compares"]) == 1
    assert "Unknown command 'compares'. Did you mean 'compare'? Expected one of compare, study" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["compare", "--models=Pop"], ["study", "beyond"]])
def test_unknown_option_of_a_config_file(argv, capsys):
    Path("bad.yaml").write_text("epohcs: 3\n")
    assert benchmark([*argv, "--config_files=bad.yaml", "--output=out"]) == 1
    assert "Unknown option 'epohcs' in bad.yaml. Did you mean 'epochs'?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["compare", "--models=TIGER"], ["study", "beyond"]])
def test_output_is_no_value_of_the_model_option(argv, capsys):
    assert benchmark([*argv, "--output=level"]) == 1
    assert "--output is level, a value of the model option 'output'" in capsys.readouterr().err
    assert not Path("level").exists()


def test_only_one_argument_has_the_name_of_an_option_with_another_meaning():
    output = "--output=out"
    parsed = [run_command.parse([]), comparison.parse(["--models=Pop", output]), study.parse(["beyond", output])]
    arguments = {name for args, _ in parsed for name in vars(args)}
    options = known_options(tuple(known_models()), "arts-toy")
    launch = {"nproc", "ip", "port", "world_size", "group_offset"}  # as in RecBole
    assert arguments & options - {"model", "dataset", *launch} == {"output"}


@pytest.mark.parametrize(
    "content, expected",
    [
        ("lamda_con: 1\n", "Unknown option 'lamda_con' in my.yaml"),
        ("a: [1\n", "my.yaml is not valid YAML"),
        ("- 1\n", "contains a list"),
        ("model: [Pop, SASRek]\n", "Unknown model 'SASRek'"),
    ],
)
def test_config_files_are_checked(content, expected, tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(content)
    assert expected in failure(capsys, "--config_files=my.yaml")


def test_dataset_folder_without_interactions_is_an_error(tmp_path, capsys):
    (tmp_path / "data" / "empty").mkdir(parents=True)
    assert "empty.inter does not exist" in failure(capsys, "--dataset=empty", f"--data_path={tmp_path / 'data'}")


def test_verbose_shows_the_traceback(capsys):
    assert main(["--model=macrec", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_failed_model_does_not_stop_the_others(tiny, capsys):
    assert main(["--model=Pop,MACRec", *tiny, "--modalities=['text','smell']", "--output=out"]) == 1
    pop, macrec = open_comparison("out").runs
    assert pop.result["test_result"]["hit@10"] > 0 and not macrec.finished
    assert "smell" in macrec.error and macrec.error in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_out_of_memory_names_the_options(error):
    assert all(option in user_message(error) for option in ("train_batch_size", "eval_batch_size", "num_beams"))


def test_internal_errors_are_not_reported_as_user_errors():
    assert user_message(ValueError("a bug of ours")) is None
