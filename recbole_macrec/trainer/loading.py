"""What a checkpoint of unknown origin says about its model and dataset."""
import os
from pathlib import Path

from recbole.config import Config

from recbole_macrec.config.options import NOT_FROM_CHECKPOINTS, PACKAGED_DATASET, known_options
from recbole_macrec.config.property_files import property_file, read_yaml
from recbole_macrec.errors import UserError
from recbole_macrec.utils.requirements import recbole_folder


def known_settings(settings: dict) -> dict:
    """The settings of a checkpoint of unknown origin that say how its model is built: those that RecBole or a model reads.

    Settings that name a pickle, send anything away or fetch data do not count; a dataset's ``source`` is that of its property file.
    """
    model, dataset = settings.get("model"), settings.get("dataset")
    if not isinstance(model, str) or not isinstance(dataset, str):
        raise UserError("The settings of the checkpoint name no model and dataset; name another checkpoint.")
    known = known_options((model,), dataset) - NOT_FROM_CHECKPOINTS
    path = property_file("dataset", f"{dataset}.yaml")
    source = read_yaml(path).get("source") if path.is_file() else None
    return {key: value for key, value in settings.items() if key in known} | {"source": source, "log_wandb": False}


def dataset_folder(config: Config, model_file, seen_from_file: str | None, data_path=None) -> Path:
    """Where the dataset of a checkpoint lies now.

    Args:
        seen_from_file: the dataset's folder as seen from the checkpoint's when it was written.
        data_path: the folder with the dataset's folder, as the user gives it.

    Raises:
        UserError: when it is in none of the places, saying what to give.
    """
    name, trained = config["dataset"], Path(config["data_path"])
    if name == PACKAGED_DATASET:
        return recbole_folder() / "dataset_example" / name
    if data_path is not None:
        places = [Path(data_path) / name]
    else:
        moved = [] if seen_from_file is None else [Path(os.path.normpath(Path(model_file).parent / seen_from_file))]
        places = [*moved, trained]
    for place in places:
        if any(place.glob(f"{name}.inter")) or any(place.glob(f"{name}.*.inter")):
            return place
    if data_path is None and config["source"]:
        return trained  # it is brought there
    looked = " or ".join(dict.fromkeys(map(str, places)))
    raise UserError(f"Checkpoint {model_file} was trained on the dataset {name}, of which {looked} has no {name}.inter: give the "
                    f"folder that holds the folder {name} as data_path (--data_path=DIR).")


def trained_on(state: dict) -> str | None:
    """The bundle of semantic IDs that the checkpoint ``state`` was trained on; None where it does not say."""
    return (state.get("other_parameter") or {}).get("bundle")
