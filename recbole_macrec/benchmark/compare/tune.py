"""Tunes each model with the same number of tries, drawn from its hyper-parameter file and chosen by the validation score.

``properties/hyper/MODEL.hyper`` is a file of RecBole's HyperTuning, with one option per line:

    learning_rate loguniform -8,-4        e to the power of a uniform number
    dropout_prob uniform 0.0,0.5          (quniform 0.0,0.5,0.1 rounds to multiples of 0.1)
    num_layers choice [1,2,3]

The first try keeps the default settings, so the tuned validation score is never lower than the default one. An option that the
command line sets is not tuned. Tries depend only on the model's name and the seed, so an interrupted tuning continues with the
same tries. The chosen try is the run of the first seed: it has the same settings and seed, and is not repeated.
"""
import ast
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_macrec.benchmark.compare.matrix import Matrix, Variant
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.run_model import Request, checked_options
from recbole_macrec.benchmark.compare.runs import BEST, TUNE, Comparison, Run, RunSpec, file_name, write_run_spec
from recbole_macrec.config.property_files import property_file
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import replace_folder

DRAWS = 1000  # maximum number of draws in search of new settings


def read_space(model: str) -> dict[str, tuple[str, list]]:
    """Read the search space of a model: option -> kind and arguments.

    Raises:
        UserError: if the model has no hyper-parameter file, or a line of it is wrong.
    """
    path = property_file("hyper", f"{model}.hyper")
    if not path.is_file():
        raise UserError(f"--tune: the model {model} has no hyper-parameter file {path}; write one, or compare without --tune.")
    space: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            space |= _parsed(line, path)
    return space


def _parsed(line: str, path: Path) -> dict[str, tuple[str, list]]:
    name, kind, values = [*line.split(maxsplit=2), "", ""][:3]
    lengths = {"uniform": 2, "loguniform": 2, "quniform": 3}
    try:
        arguments = ast.literal_eval(values if kind == "choice" else f"[{values}]")
    except (SyntaxError, ValueError):
        arguments = None
    known = kind == "choice" or kind in lengths
    if not isinstance(arguments, list) or not known or not arguments or len(arguments) != lengths.get(kind, len(arguments)):
        raise UserError(
            f"{path} has the line '{line.strip()}'; expected an option, then choice [a,b], uniform low,high, "
            "quniform low,high,step or loguniform low,high."
        )
    return {name: (kind, arguments)}


def draw_tries(model: str, fixed: dict[str, Any], tries: int, seed: int, default: Mapping[str, Any] = {}) -> list[dict]:
    """Draw up to ``tries`` different settings, the first one empty; fewer if the space has fewer.

    Args:
        fixed: options that are not tuned.
        default: values of the options in the first try, which are not drawn again.
    """
    space = {name: entry for name, entry in read_space(model).items() if name not in fixed}
    rng = random.Random(f"{model} {seed}")
    drawn: list[dict[str, Any]] = [{}]
    of_first_try = {name: default.get(name) for name in space}
    for _ in range(DRAWS):
        if len(drawn) >= tries or not space:
            break
        settings = {name: _draw(rng, *entry) for name, entry in space.items()}
        if settings not in (of_first_try, *drawn):
            drawn.append(settings)
    return drawn


def _draw(rng: random.Random, kind: str, arguments: list):
    if kind == "choice":
        return rng.choice(arguments)
    number = rng.uniform(*arguments[:2])
    if kind == "loguniform":
        return float(np.exp(number))
    return round(number / arguments[2]) * arguments[2] if kind == "quniform" else number


def write_tries(matrix: Matrix, folder: Path, tries: int) -> dict[tuple[str, str], list[Run]]:
    """Create a run folder for each try, with the first of the seeds; returns (dataset, label) -> its tries.

    Raises:
        UserError: for wrong settings, and another number of tries than the one that earlier settings were chosen from.
    """
    if tries < 1:
        raise UserError(f"--tune is {tries}; expected at least 1.")
    runs_of = {}
    for dataset in matrix.datasets:
        for variant in matrix.variants:
            fixed = {**matrix.settings, **variant.settings}
            default = checked_options(variant.model, Request(dataset, (), fixed))
            if default.get("eval_step") == 0:
                raise UserError("--tune chooses by the validation score, but eval_step is 0 (no validation); set it to at "
                                "least 1.")
            drawn_tries = draw_tries(variant.model, fixed, tries, matrix.seeds[0], default)
            place = _folder(folder, dataset, variant)
            if (place / BEST).is_file() and (earlier := len(list(place.glob("try-*")))) not in (0, len(drawn_tries)):
                raise UserError(f"The settings of {variant.label} on {dataset} were chosen from {earlier} tries; give "
                                f"--tune={earlier}, or another --output.")
            drawn_settings = [{**fixed, **drawn} for drawn in drawn_tries]
            for settings in drawn_settings[1:]:
                checked_options(variant.model, Request(dataset, (), settings))
            runs_of[dataset, variant.label] = [
                write_run_spec(
                    place / f"try-{number:03d}",
                    RunSpec(variant.label, variant.model, dataset, matrix.seeds[0], settings),
                )
                for number, settings in enumerate(drawn_settings)
            ]
    return runs_of


def _folder(folder: Path, dataset: str, variant: Variant) -> Path:
    return folder / TUNE / dataset / file_name(variant.label)


def tries_to_run(runs_of: dict[tuple[str, str], list[Run]]) -> list[Run]:
    """Return the tries, without those that failed before the best one was chosen: a choice that runs depend on must not change.

    Args:
        runs_of: see :func:`write_tries`.
    """
    return [run for runs in runs_of.values() for run in runs if not (run.error and (run.folder.parent / BEST).is_file())]


def choose(
    matrix: Matrix, folder: Path, runs_of: dict[tuple[str, str], list[Run]]
) -> dict[tuple[str, str], dict[str, Any]] | None:
    """Choose the try with the best validation score for each (dataset, label), and write best.json.

    Args:
        runs_of: see :func:`write_tries`.

    Returns:
        (dataset, label) -> its tuned settings; None while tries are unfinished.

    Raises:
        UserError: if all tries of a label failed, or none has a validation score.
    """
    if any(not run.finished and not run.error for tries in runs_of.values() for run in tries):
        return None
    chosen = {}
    for (dataset, label), tries in runs_of.items():
        variant = next(variant for variant in matrix.variants if variant.label == label)
        done = [run for run in tries if run.finished]
        if not done:
            raise UserError(f"Every try of {label} on {dataset} failed: {tries[0].error}")
        if done[0].result["best_valid_score"] is None:
            raise UserError(f"--tune chooses by the validation score, but {dataset} has no validation data for {label}; change "
                            "eval_args, or compare without --tune.")
        sign = 1 if done[0].result["valid_score_bigger"] else -1
        best = max(done, key=lambda run: sign * run.result["best_valid_score"])
        fixed = {**matrix.settings, **variant.settings}
        chosen[dataset, label] = {k: v for k, v in best.spec.settings_with_effect.items() if k not in fixed}
        scores = {run.folder.name: run.result["best_valid_score"] for run in done}
        content = {"settings": chosen[dataset, label], "best_valid_score": best.result["best_valid_score"], "scores": scores}
        write_json(content, _folder(folder, dataset, variant) / BEST)
    return chosen


def copy_chosen_tries(comparison: Comparison, runs_of: dict[tuple[str, str], list[Run]]) -> None:
    """Copy finished tries to the unfinished runs of ``comparison`` that have the same settings and seed.

    Settings of where and how a run is executed may differ.

    Args:
        runs_of: see :func:`write_tries`.
    """
    for run in comparison.unfinished:
        requested = run.spec.seed, run.spec.settings_with_effect
        finished = [a_try for a_try in runs_of.get((run.spec.dataset, run.spec.label), []) if a_try.finished]
        same = [a_try for a_try in finished if (a_try.spec.seed, a_try.spec.settings_with_effect) == requested]
        if same:
            with replace_folder(run.folder, overwrite=True) as folder:
                shutil.copytree(same[0].folder, folder, dirs_exist_ok=True)
