"""Settings and dataset folder of a checkpoint from any source."""
import os
from glob import escape
from pathlib import Path

from recbole.config import Config

from recbole_macrec.config.options import NOT_FROM_CHECKPOINTS, PACKAGED_DATASET, check_model, known_options
from recbole_macrec.config.property_files import read_properties
from recbole_macrec.config.validation import check_network_options
from recbole_macrec.errors import UserError
from recbole_macrec.utils.requirements import recbole_folder


def known_settings(settings: dict) -> dict:
    """The settings of a checkpoint that RecBole or its model reads.

    Settings that name a pickle, send data away or download data are left out, since the checkpoint may be from anyone. The
    dataset's ``source`` is that of its property file.

    Raises:
        UserError: if there is no model or dataset.
    """
    model, dataset = settings.get("model"), settings.get("dataset")
    if not isinstance(model, str) or not isinstance(dataset, str):
        raise UserError("The settings of the checkpoint do not name a model and a dataset; use another checkpoint.")
    check_model(model)
    check_network_options(settings, model)
    known = known_options((model,), dataset) - NOT_FROM_CHECKPOINTS
    source = read_properties("dataset", f"{dataset}.yaml").get("source")
    return {key: value for key, value in settings.items() if key in known} | {"source": source, "log_wandb": False}


def dataset_folder(config: Config, model_file, relative: str | None, data_path=None) -> Path:
    """The folder of a checkpoint's dataset.

    Args:
        relative: path of the dataset's folder relative to the checkpoint's folder, when it was written.
        data_path: the folder that contains the dataset's folder, if the user gives it.

    Raises:
        UserError: if the dataset is not found.
    """
    name, in_training = config["dataset"], Path(config["data_path"])
    if name == PACKAGED_DATASET:
        return recbole_folder() / "dataset_example" / name
    if data_path is not None:
        places = [Path(data_path) / name]
    else:
        beside = [] if relative is None else [Path(os.path.normpath(Path(model_file).parent / relative))]
        places = [*beside, in_training]
    for place in places:
        if (place / f"{name}.inter").is_file() or any(place.glob(f"{escape(name)}.*.inter")):
            return place
    if data_path is None and config["source"]:
        return in_training  # it will be downloaded there
    searched = " or ".join(dict.fromkeys(map(str, places)))
    raise UserError(
        f"Checkpoint {model_file} was trained on the dataset {name}, but there is no {name}.inter in {searched}; set "
        f"data_path (--data_path=DIR) to the folder that contains the folder {name}."
    )


def trained_on(state: dict) -> str | None:
    """The bundle of semantic IDs that the checkpoint ``state`` was trained on; None if it names none."""
    return (state.get("other_parameter") or {}).get("bundle")
