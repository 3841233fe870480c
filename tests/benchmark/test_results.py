"""Published results: small JSON files without paths, and the page that is generated from them."""
import importlib.util
import json
from pathlib import Path

import pytest
from conftest import TINY, write_tiny_dataset

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.runs import open_comparison

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_results", DOCS / "build_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def published(tmp_path, capsys) -> tuple[Path, dict]:
    """The folder with the published file of one run, and the result of that run."""
    data_path = write_tiny_dataset(tmp_path / "data")
    argv = ["compare", "--models=SASRec", f"--datasets={TINY}", f"--data_path={data_path}", "--epochs=2", "--hidden_size=8",
            "--inner_size=8", f"--output={tmp_path / 'out'}"]
    assert main(argv) == 0
    assert main(["publish", str(tmp_path / "out"), f"--to={tmp_path / 'results'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "results" / TINY / "SASRec-seed-2020.json")
    return tmp_path / "results", open_comparison(tmp_path / "out").runs[0].result


def test_published_file_has_results_but_no_paths(published, tmp_path):
    folder, record = published
    (file,) = folder.rglob("*.json")
    content = json.loads(file.read_text())
    for name in ("model", "dataset", "seed", "test_result", "epochs", "seconds", "commit"):
        assert content[name] == record[name]
    assert content["machine"] == record["hardware"] and content["settings"]["epochs"] == 2
    assert content["command"].startswith(
        f"python run_recbole_macrec.py --model=SASRec --dataset={TINY} --data_path=data --seed=2020 "
    )
    assert "--hidden_size=8" in content["command"]
    cpu = [entry["cpu_seconds"] for entry in content["curve"]]
    assert len(cpu) == 2 and min(cpu) > 0 and content["seconds"]["cpu"] >= sum(cpu)
    assert str(tmp_path) not in file.read_text()


def test_page_shows_the_published_results(published, builder):
    folder, record = published
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    row = next(line for line in text.splitlines() if line.startswith("| SASRec | "))
    assert f"{record['test_result']['hit@10']:.4f}" in row and f"{record['test_result']['ndcg@10']:.4f}" in row


def test_page_shows_published_figures_beside_those_by_id(builder):
    records = builder.read_records(DOCS / "results")
    study = builder.read_studies(records)["published"]
    study["published"]["Instruments"]["MACRec"] = {"hit@10": 0.5, "ndcg@10": 0.25}
    assert "| 0.5000 | 0.2500 |" in builder.page([r for r in records if r["study"] == "published"], {"published": study})


def test_results_in_the_folder_of_another_study_have_its_metrics(published, builder):
    folder, record = published
    (file,) = folder.rglob("*.json")
    (folder / "mmgrec_table2").mkdir()
    file.parent.rename(folder / "mmgrec_table2" / TINY)
    records = builder.read_records(folder)
    text = builder.page(records, builder.read_studies(records))
    assert f"Models of MMGRec's Table 2: {TINY}\n" in text and "| model | recall@10 | ndcg@10 | recall@20 |" in text


def test_results_page_is_up_to_date(builder):
    records = builder.read_records(DOCS / "results")
    assert (DOCS / "results.md").read_text(encoding="utf-8") == builder.page(records, builder.read_studies(records))
    for record in records:
        assert record["commit"] and record["machine"]["cores"] and record["seconds"]["cpu"] > 0
