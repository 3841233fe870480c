"""Run a study: a comparison, its tables and figures, as a YAML file describes them.

    python -m recbole_macrec.benchmark study ablation --datasets=arts-toy --seeds=3 --output=DIR

The name is that of a file in ``properties/study/``, or the path of your own YAML file. Accepts every option of ``compare``
but --pairs, which the file sets, and can be resumed in the same way. Writes study.md, study.json, figures/*.png and
figures/*.pdf to the output folder, beside the tables; with several datasets, to a folder of each dataset in it. Studies:
ablation, beyond, collisions, code_distribution, sensitivity, beam_vs_exact, ranking, cold_items, history_length, published
(on datasets that papers report), macrec_table2, quantizers, mmgrec_table2, mmgrec_table2_leave_one_out and mmgrec_ablation.
"""
import argparse
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_macrec.benchmark.arguments import SETTINGS, read_settings
from recbole_macrec.benchmark.compare.comparison import add_matrix_options, compare, split_names, write_and_print_tables
from recbole_macrec.benchmark.compare.matrix import Matrix, Variant, matrix_settings, parse_seeds
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, run_config
from recbole_macrec.benchmark.compare.runs import (
    COMPARE,
    RUNS,
    STUDY,
    TUNE,
    Comparison,
    fusion_name,
    fusions_in,
    open_comparison,
)
from recbole_macrec.benchmark.fuse.command import fuse
from recbole_macrec.benchmark.machine import git_commit, hardware
from recbole_macrec.benchmark.study.definition import StudyDefinition
from recbole_macrec.benchmark.study.kinds import DEFAULT, FINISHED_KINDS, StudyResult, as_markdown
from recbole_macrec.benchmark.study.published import check_published, published
from recbole_macrec.benchmark.study.rankings import check_beams, check_rankings
from recbole_macrec.config.options import check_options, known_models, refuse_trust
from recbole_macrec.config.property_files import property_file, read_user_yaml
from recbole_macrec.config.schema.base import REGISTRIES
from recbole_macrec.config.validation import computed_metrics
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.model.base import generative_names
from recbole_macrec.model.preparation import reads_semantic_ids
from recbole_macrec.semantic_ids.dataset_settings import settings_of
from recbole_macrec.utils.arguments import CommandParser
from recbole_macrec.utils.distributed import group
from recbole_macrec.utils.files import atomic_write

KINDS = FINISHED_KINDS | {published.__name__: published}
REGISTRIES["study_kind"] = KINDS


def main(argv: list[str]) -> int:
    """The command ``study``; returns the exit code."""
    with group() as processes:
        if processes.size > 1:
            raise UserError(
                "a study starts processes itself; start it without torchrun, and use --jobs or --ray for parallel runs."
            )
    args, settings = parse(argv)
    study = read_study(args.name)
    if args.models and study.model:
        raise UserError(f"--models: the study {args.name} is about variants of {study.model}; leave --models out.")
    request = Request("", tuple(args.config_files.split()), settings)
    datasets = split_names(args.datasets)
    if not datasets:
        raise UserError("--datasets names no dataset; give one or more, such as --datasets=Instruments,Arts.")
    if study.kind == published.__name__:
        for dataset in datasets:
            check_published(study, dataset)
    given = matrix_settings(request)
    folders = {dataset: study_folder(Path(args.output), dataset, alone=len(datasets) == 1) for dataset in datasets}
    matrices = {dataset: _matrix(study, dataset, given, request, args, folder) for dataset, folder in folders.items()}
    options = {name: value for name in ("models", "seeds", "tune") if (value := getattr(args, name)) not in (None, "1")}
    seed = {} if (value := request.value("seed")) is None else {"seed": value}
    command = {"name": Path(args.name).stem, "file": args.name, "options": options | given | seed}
    for sentence in replaced(study, given):
        print(sentence)
    status, start = 0, time.monotonic()
    for dataset, matrix in matrices.items():
        for sentence in without_effect(matrix.variants, given):
            print(sentence)
        status = max(status, _run(study, matrix, command, args, folders[dataset]))
        if args.minutes is not None:  # the time left for the other datasets
            now = time.monotonic()
            start, args.minutes = now, max(0.0, args.minutes - (now - start) / 60)
    return status


def study_folder(output: Path, dataset: str, alone: bool) -> Path:
    """Return the folder of a dataset of a study: ``output``, or one in it if the study has several datasets.

    Runs of the dataset that are in one of the two decide, so that a command can add datasets to those of an earlier one.

    Args:
        alone: whether the command names no other dataset.
    """
    own = output / dataset
    for folder in (own, output):
        if any((folder / part / dataset).is_dir() for part in (RUNS, TUNE)):
            return folder
    return output if alone else own


def _run(study: StudyDefinition, matrix: Matrix, command: dict[str, Any], args: argparse.Namespace, output: Path) -> int:
    """Run the study on a dataset until ``--minutes`` have passed, and write its table; returns the exit code.

    Args:
        matrix: the runs of the study on the dataset.
        command: the name of the study and the options of the command, for its record.
    """
    status = compare(matrix, output, args.jobs, args.minutes, args.ray, args.tune)
    if not (output / COMPARE).is_file():  # the tuning is not finished
        return status
    comparison = _fuse_finished(open_comparison(output, matrix.settings["data_path"]), study)
    if study.kind in FINISHED_KINDS and (comparison.waiting or not any(run.finished for run in comparison.runs)):
        return status
    _write_study(KINDS[study.kind](comparison, study), study, command, matrix.datasets[0], output)
    return status


def _matrix(
    study: StudyDefinition,
    dataset: str,
    given: dict[str, Any],
    request: Request,
    args: argparse.Namespace,
    output: Path,
) -> Matrix:
    """The runs of the study on a dataset; they depend on it, as default values differ between datasets.

    Raises:
        UserError: for settings that a run or the study does not accept.
    """
    settings = study.settings | given
    models = split_names(args.models or "") or study.models
    variants = variants_of(study, models, dataset, settings)
    # by default, compare the full model with each variant
    full_with_each = [] if models else [(variants[0].label, other.label) for other in variants[1:]]
    pairs = full_with_each if study.pairs is None else study.pairs
    fusions = fusions_in(output) | {fusion_name(labels): labels for labels in study.fusions}
    matrix = Matrix(variants, [dataset], parse_seeds(args.seeds, request), settings, pairs, fusions)
    matrix.check(vars(args), request.config_files)
    check_table(study, variants, dataset, settings)
    return matrix


def _fuse_finished(comparison: Comparison, study: StudyDefinition) -> Comparison:
    """Fuse the models of the study's ``fusions`` once no run is waiting, and return the comparison with the fused runs.

    A fusion with a model that failed is left out.
    """
    if comparison.waiting:
        return comparison
    finished = set(comparison.labels) - {run.spec.label for run in comparison.unfinished}
    possible = [labels for labels in study.fusions if set(labels) <= finished]
    for labels in possible:
        fuse(comparison.folder, labels, data_path=comparison.data_path)
    comparison = open_comparison(comparison.folder, comparison.data_path)
    if possible:
        write_and_print_tables(comparison)
    return comparison


def _write_study(result: StudyResult, study: StudyDefinition, command: dict[str, Any], dataset: str, output: Path) -> None:
    """Print the table, and write it with its figures as study.md, study.json and files in ``figures/``.

    Args:
        command: the name of the study, as it was given, and the options of the command.
    """
    text = as_markdown(result, f"{study.title}: {dataset}")
    print(text)
    with atomic_write(output / "study.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    record = {**command, "title": study.title, "kind": study.kind, "dataset": dataset}
    record |= {**result.record(), "commit": git_commit(), "machine": hardware()}
    record["figures"] = {label: asdict(figure) for label, figure in result.figures.items()}
    write_json(record, output / STUDY)
    figures = [path for label, figure in result.figures.items() for path in figure.save(output / "figures", label)]
    print("Study:", output / "study.md", output / STUDY, *figures)


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse the command line into the arguments of ``study`` and RecBole's settings."""
    parser = CommandParser("python -m recbole_macrec.benchmark study", __doc__, epilog=SETTINGS)
    parser.add_argument("name", help="name of a study, or path of a YAML file")
    parser.add_argument("--models", "--model", help="models or variants to run instead of those of the study")
    parser.add_argument(
        "--datasets", "--dataset", default="arts-toy", help="comma-separated, such as Instruments,Arts (default: arts-toy)"
    )
    add_matrix_options(parser)
    return read_settings(parser, argv)


def study_names() -> list[str]:
    """Return the names of the studies in ``properties/study/``."""
    return sorted(path.stem for path in property_file("study").glob("*.yaml"))


def read_study(name: str) -> StudyDefinition:
    """Read and check the YAML file of a study.

    Args:
        name: of a study in ``properties/study/``, or the path of a YAML file.

    Raises:
        UserError: when there is no such file, or it has an unknown, missing or wrong key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else property_file("study", f"{name}.yaml")
    if not path.is_file():
        raise UserError(f"Unknown study '{name}'.{nearest(name, study_names())} Available studies: {', '.join(study_names())}.")
    content = read_user_yaml(path, "Study")
    try:
        study = StudyDefinition(**{"title": path.stem} | content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    _check_settings(study, path)
    _check_row_names(study, path)
    return study


def _check_settings(study: StudyDefinition, path: Path) -> None:
    """Raise a UserError if the file sets an option that it must not set."""
    for settings in (study.settings, study.sweeps, *study.variants.values()):
        refuse_trust(settings, path)
        for option in ("seed", "dataset"):
            if option in settings:
                raise UserError(f"{path} sets {option}, which --{option}s names here; leave it out of the file.")


def _check_row_names(study: StudyDefinition, path: Path) -> None:
    """Raise a UserError for a study without rows, and for an unknown row of a fusion."""
    own_models = study.variants and all("model" in variant for variant in study.variants.values())
    if not (study.models or own_models or (study.model and (study.variants or study.sweeps))):
        raise UserError(f"{path}: expected 'models', 'model' with 'variants' or 'sweeps', or 'variants' that each have a "
                        "'model'.")
    swept = [f"{option}={value}" for option, values in study.sweeps.items() for value in values]
    rows = [*study.variants, *study.models, *([DEFAULT, *swept] if swept else [])]
    fused = [fusion_name(labels) for labels in study.fusions]
    for key, lists, names in (("fusions", study.fusions, rows), ("pairs", study.pairs or [], [*rows, *fused])):
        for labels in lists:
            if unknown := _neither_row_nor_model(labels, names):  # --models can add rows of models
                raise UserError(f"{path}: {key} names {unknown!r}, which is neither a row of the study nor a model."
                                f"{nearest(unknown, [*names, *known_models()])}")


def _neither_row_nor_model(names: Iterable[str], rows: Collection[str]) -> str | None:
    """The first of ``names`` that is neither one of ``rows`` nor a model; None if there is none."""
    others = [name for name in names if name not in rows]
    models = known_models() if others else []  # it reads RecBole's source files
    return next((name for name in others if name not in models), None)


def variants_of(study: StudyDefinition, models: list[str], dataset: str, settings: dict[str, Any]) -> list[Variant]:
    """Return the rows of the table: models, variants, or one row for every value of every swept option.

    Args:
        models: restricts the rows to these. A name is the label of a variant, or else a model with its default settings.
    """
    variants = {label: _variant(label, study.model, **changes) for label, changes in study.variants.items()}
    if (unknown := _neither_row_nor_model(models, variants)) and (hint := nearest(unknown, variants)):
        raise UserError(f"--models names {unknown!r}, which is no row of the study.{hint}")
    if models:
        return [variants.get(name) or Variant(name, name) for name in models]
    if variants:
        return list(variants.values())
    model = study.model
    if model is None:
        raise UserError(f"The study {study.title} has 'sweeps' without 'model'; add the model to sweep.")
    options = ["con_layers" if option == "first_con_layer" else option for option in study.sweeps]
    check_options(options, [model], dataset, f"the sweeps of the study {study.title}")
    default = default_values(model, dataset, settings)
    swept = {DEFAULT: Variant(DEFAULT, model)}
    for option, values in study.sweeps.items():
        for value in values:
            label, changes = sweep_value(default, option, value)
            if changes is not None:
                swept.setdefault(label, Variant(label, model, changes))
    return list(swept.values())


def check_table(study: StudyDefinition, variants: list[Variant], dataset: str, settings: dict[str, Any]) -> None:
    """Raise a UserError, before the models are trained, if the study cannot make its table of these rows."""
    ranks_with_beams, shows_ids = study.kind in ("beams", "rankings"), study.kind in ("collisions", "code_distribution")
    if not (ranks_with_beams or shows_ids or study.metrics):  # a configuration takes time, and may be wrong for a run only
        return
    configs = {variant.label: run_config(variant.model, Request(dataset, settings=settings | variant.settings))
               for variant in variants}
    for variant in variants if study.rankings else ():
        if variant.model in generative_names():  # check_beams refuses others
            check_rankings(configs[variant.label], study.rankings)
    if ranks_with_beams:
        numbers = study.beams or [options["num_beams"] for options in study.rankings.values() if "num_beams" in options]
        for variant in variants:
            check_beams(variant.model, max(configs[variant.label]["topk"]), numbers)
    if shows_ids and not any(map(reads_semantic_ids, configs.values())):
        raise UserError(f"The study is about semantic IDs, which {' and '.join(configs)} do not have; name other --models.")
    for label, config in configs.items() if study.metrics else ():
        computed = [name.lower() for name in computed_metrics(config)]
        if missing := [metric for metric in study.metrics or [] if metric not in computed]:
            raise UserError(
                f"The study's table has {', '.join(missing)}, which is not computed for {label} (it has "
                f"{', '.join(computed)}); change metrics and topk, or 'metrics' of the study.{nearest(missing[0], computed)}"
            )


def replaced(study: StudyDefinition, given: dict[str, Any]) -> list[str]:
    """Return a sentence for each setting of the study that the command or its config files replace."""
    return [f"{option}={value} replaces {option}={study.settings[option]} of the study." for option, value in given.items()
            if option in study.settings and study.settings[option] != value]


def without_effect(variants: Sequence[Variant], given: dict[str, Any]) -> list[str]:
    """Return a sentence for each option of the command that some variants set to another value themselves."""
    sentences = []
    for option, value in given.items():
        own = [variant.label for variant in variants if variant.settings.get(option, value) != value]
        if own:
            sentences.append(f"{option}={value} has no effect on {', '.join(own)}: the study sets {option} there.")
    return sentences


def _variant(label: str, default_model: str | None, model: str | None = None, **settings) -> Variant:
    chosen = model or default_model
    if chosen is None:
        raise UserError(f"The variant {label} of the study has no 'model', and neither has the study; add one.")
    return Variant(label, chosen, settings)


def sweep_value(default: dict, option: str, value) -> tuple[str, dict | None]:
    """Return the label and the settings of one value of a sweep; the settings are None if the model has no such layer."""
    label, changes = f"{option}={value}", {option: value}
    if option == "first_con_layer":
        changes = {"con_layers": list(range(value, default["codebook_levels"]))}
        if not changes["con_layers"]:
            return label, None
    is_default = all(name in default and default[name] == chosen for name, chosen in changes.items())
    return (DEFAULT, {}) if is_default else (label, changes)


def default_values(model: str, dataset: str, settings: dict[str, Any]) -> dict:
    """Return option -> value for a run of ``model`` on ``dataset``, with presets applied."""
    config = run_config(model, Request(dataset, settings=settings))
    ids = settings_of(config, Path(config["data_path"])).identity() if reads_semantic_ids(config) else {}
    return config.final_config_dict | ids
