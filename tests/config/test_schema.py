"""The option schema: defaults as in the property files, values of the papers, and docs/options.md."""
from pathlib import Path

import pytest
from recbole.config import Config

from recbole_macrec import UserError
from recbole_macrec.config.document import document, main
from recbole_macrec.config.property_files import property_file, read_yaml
from recbole_macrec.config.schema.base import Options, paper_of
from recbole_macrec.config.schema.models import MODELS, AnyModelOptions
from recbole_macrec.utils.requirements import recbole_folder

PRESETS = sorted(path for path in property_file("preset").glob("*.yaml"))


def plain(value):
    return list(value) if isinstance(value, tuple) else value


def recbole_defaults() -> dict:
    files = [recbole_folder() / "properties" / name for name in ("overall.yaml", "dataset/sample.yaml")]
    return {key: value for file in files for key, value in read_yaml(file).items()}


def test_property_files_are_read_again_after_a_change(tmp_path):
    """They are parsed once, but neither a changed value nor a changed file is hidden."""
    path = tmp_path / "file.yaml"
    path.write_text("a: [1]\n")
    read_yaml(path)["a"].append(2)
    assert read_yaml(path) == {"a": [1]}
    path.write_text("a: [3]\n")
    assert read_yaml(path) == {"a": [3]}


@pytest.mark.parametrize("model", MODELS)
def test_defaults_equal_those_of_the_property_files(model):
    """None in a property file means a default that depends on other options."""
    files = recbole_defaults() | read_yaml(property_file("overall.yaml")) | read_yaml(property_file("model", f"{model}.yaml"))
    schema = MODELS[model]
    for name, value in files.items():
        if name in schema.model_fields and not (value is None and name in schema.optional):
            assert plain(schema.model_fields[name].default) == value, name


@pytest.mark.parametrize("model", MODELS)
def test_every_option_of_a_model_is_declared(model):
    assert set(read_yaml(property_file("model", f"{model}.yaml"))) - set(MODELS[model].model_fields) <= {
        "train_neg_sample_args"
    }


def test_defaults_of_recboles_options_equal_recboles():
    found = recbole_defaults()
    for name, field in AnyModelOptions.model_fields.items():
        if name in found:
            assert plain(field.default) == found[name], name


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_contain_valid_values_and_those_of_the_papers(path):
    model, _, name = path.stem.partition("-")
    values = read_yaml(path)
    assert set(values) <= set(MODELS[model].model_fields)
    MODELS[model](**values)
    for option, value in values.items():
        if name == "paper":
            assert plain(paper_of(MODELS[model].model_fields[option])) == value, option


@pytest.mark.parametrize("model", ["TIGER", "MQL4GRec", "MACRec"])
def test_the_preset_narrow_is_the_default(model):
    for option, value in read_yaml(property_file("preset", f"{model}-narrow.yaml")).items():
        assert plain(MODELS[model].model_fields[option].default) == value, option


@pytest.mark.parametrize("path", sorted(property_file("dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_dataset_files_contain_valid_values(path):
    for schema in MODELS.values():
        schema.read(read_yaml(path))


@pytest.mark.parametrize(
    "path", sorted(recbole_folder().glob("properties/**/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_files_of_recbole_contain_valid_values(path):
    AnyModelOptions.read(read_yaml(path))


@pytest.mark.parametrize("model", MODELS)
def test_values_of_the_papers_are_valid(model):
    fields = MODELS[model].model_fields
    values = {name: paper_of(field) for name, field in fields.items() if paper_of(field) is not None}
    MODELS[model](**{**values, "metrics": ["Recall"]})


@pytest.mark.parametrize("schema", [*MODELS.values(), AnyModelOptions], ids=lambda schema: schema.__name__)
def test_every_option_is_described(schema: type[Options]):
    for name, field in schema.model_fields.items():
        assert field.description and "\n" not in field.description, name


def test_docs_are_current():
    """Otherwise run ``python -m recbole_macrec.config.document docs/options.md``."""
    assert (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8") == document()


def test_docs_give_the_description_of_every_model():
    """A description is that of one model only if it names the model."""
    lines = {line.split("`")[1]: line for line in document().splitlines() if line.startswith("| `")}
    for model, schema in MODELS.items():
        for name, field in schema.model_fields.items():
            assert field.description.replace("|", "\\|") in lines[name], (model, name)


def test_command_for_the_docs_writes_only_the_file_that_it_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "FILE.md" in capsys.readouterr().out
    assert main([]) == 1 and "required: FILE.md" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["page.md"]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document()


def test_error_of_an_unknown_option_suggests_the_nearest():
    with pytest.raises(UserError, match="Unknown option 'lamda_con'. Did you mean 'lambda_con'?"):
        MODELS["MACRec"](lamda_con=1)
    with pytest.raises(UserError, match="Unknown option 'eval_args.ordr'. Did you mean 'order'?"):
        MODELS["MACRec"](eval_args={"ordr": "TO"})


def test_misspelt_options_in_python_are_reported(tiny_dataset, caplog):
    options = {"data_path": str(tiny_dataset.parent), "num_beam": 3, "my_own_setting": 1}
    assert Config("MACRec", tiny_dataset.name, config_dict=options)["my_own_setting"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "MACRec has no option 'num_beam', and ignores it. Did you mean 'num_beams'?"]


def test_options_of_other_models_are_not_reported_as_misspelt(tiny_dataset, caplog):
    options = {"data_path": str(tiny_dataset.parent), "encoder_layers": 2}  # SASRecPerUser has decoder_layers
    Config("SASRecPerUser", tiny_dataset.name, config_dict=options)
    assert caplog.records == []


def test_numbers_given_as_strings_are_converted(tiny_dataset):
    Path("my.yaml").write_text("learning_rate: '1e-3'\nlambda_con: '0.5'\n")
    config = Config("MACRec", "tiny", config_file_list=["my.yaml"], config_dict={"data_path": str(tiny_dataset)})
    assert (config["learning_rate"], config["lambda_con"]) == (0.001, 0.5)
