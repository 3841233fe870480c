"""Find and load pretrained models from a local folder or the Hugging Face hub."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from recbole_macrec.data.fetch.hosts import Hosts, Unreachable
from recbole_macrec.errors import UserError, is_out_of_memory, one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

READ = (".json", ".txt", ".model", ".safetensors", ".bin")  # files of a model folder that transformers reads
WHOLE = 64 * 2**20  # files up to this many bytes are hashed whole
SAMPLES, SAMPLE = 64, 2**20  # number and size in bytes of the blocks hashed in larger files


class AutoClass(Protocol):
    """An auto class of transformers, such as AutoModel."""

    def from_pretrained(self, *args: Any, **arguments: Any) -> Any: ...


class ModelSource(NamedTuple):
    """A pretrained model; all its parts are loaded from one revision."""

    model: str  # as given by the user
    path: str  # folder or hub name for from_pretrained
    commit: str | None  # on the hub; None for a local folder
    identity: dict[str, str]  # features are encoded again if this changes
    config: PretrainedConfig
    option: str = "encoders"  # the option that names the model, for messages

    @property
    def revision(self) -> str:
        """Commit on the hub, or content hash of a local folder."""
        return self.commit or self.identity["content"]

    def load(self, auto_class: AutoClass, **arguments: Any) -> Any:
        """Return ``auto_class.from_pretrained`` of this revision; UserError if a file is missing or damaged."""
        if self.commit:
            arguments["local_files_only"] = not hub_answers()
        with _loading(self.model, Path(self.path).is_dir(), self.option):
            return auto_class.from_pretrained(self.path, revision=self.commit, trust_remote_code=False, **arguments)


def find_model(model: str, revision: str | None = None, option: str = "encoders") -> ModelSource:
    """Return the model with this hub name or local folder; UserError, which names ``option``, if it is unavailable."""
    from transformers import AutoConfig
    from transformers.utils import cached_file

    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise UserError(
                f"revision {revision} is set, but {folder} is a local model folder, which has no revisions; leave it out"
            )
        with _loading(model, local=True, option=option):
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        return ModelSource(model, str(folder), None, {"content": content_hash(folder)}, config, option)
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(f"model folder {folder} of {option} does not exist; check the path")
    with _loading(model, local=False, option=option):
        # The hub's client stores files in .../snapshots/<commit>/.
        offline = not hub_answers()
        file = cached_file(model, "config.json", revision=revision or "main", local_files_only=offline)
        if file is None:
            raise OSError("config.json is missing")
        commit = Path(file).parent.name
        config = AutoConfig.from_pretrained(model, revision=commit, trust_remote_code=False, local_files_only=offline)
    # The commit of a branch changes with every edit of the model's page, so the identity is the requested revision.
    return ModelSource(model, model, commit, {"model": model, "revision": revision or "main"}, config, option)


@cache
def hub_answers() -> bool:
    """Return whether the Hugging Face hub is reachable; without this check, its client would wait half a minute per file."""
    from huggingface_hub.constants import ENDPOINT

    try:
        Hosts().check(ENDPOINT)
    except Unreachable:
        return False
    return True


def load_model(source: ModelSource, dtype: torch.dtype, device: torch.device, unused: tuple[str, ...]) -> PreTrainedModel:
    """Return the model in evaluation mode; only the encoder of an encoder-decoder model.

    Args:
        source: the model.
        dtype: type of the weights.
        device: device of the model.
        unused: substrings of the names of parameters that the features do not depend on.

    Raises:
        UserError: if other weights are missing, which transformers would initialise at random, or memory runs out.
    """
    from transformers import AutoModel

    arguments = {dtype_argument(): dtype, "output_loading_info": True}
    model, report = source.load(AutoModel, **arguments)
    encoder_only = bool(getattr(model.config, "is_encoder_decoder", False))
    unused = (*unused, "position_ids", *(("decoder",) if encoder_only else ()))
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in unused))
    if missing:
        raise UserError(f"model {source.model} lacks the weights {', '.join(missing[:3])}"
                        f"{', ...' if len(missing) > 3 else ''}; choose another pooling, or a complete model")
    model = model.get_encoder() if encoder_only else model
    try:
        return model.eval().to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"model {source.model} does not fit into the memory of {device}; set precision: bf16 (or fp16), or "
                        "choose a smaller model") from None


def dtype_argument() -> str:
    """Return the name of the argument of ``from_pretrained`` for the type of the weights."""
    return "dtype" if transformers_major() >= 5 else "torch_dtype"


def transformers_major() -> int:
    """Return the major version of transformers: 5 for 5.x."""
    import transformers

    return int(transformers.__version__.split(".")[0])


def content_hash(folder: Path) -> str:
    """Return a hash of the files of a model folder that affect the model's output.

    For files over 64 MiB, only 64 equally spaced blocks are read, so that hashing 13 GB takes a fraction of a second. Further
    training changes nearly every weight, and therefore the blocks.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in READ):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for block in range(SAMPLES):
                file.seek(block * (size - SAMPLE) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


@contextmanager
def _loading(model: str, local: bool, option: str) -> Iterator[None]:
    """Convert errors of transformers for models that cannot be loaded to UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = one_line(error)
        reason = reason if len(reason) < 200 else f"{reason[:200]} ..."
        if "trust_remote_code" in str(error):
            raise UserError(f"model {model} needs custom code, which is never run (trust_remote_code is off); choose a "
                            "model that transformers supports") from error
        if local:
            raise UserError(
                f"model folder {model} of {option} is not readable ({reason}); it needs the files that "
                "save_pretrained writes: config.json, weights, and the tokenizer's or image processor's files"
            ) from error
        setting = "model" if option == "encoders" else option
        raise UserError(
            f"model '{model}' of {option} is not on this machine and could not be downloaded ({reason}); check name, "
            f"revision and network, or download it on another machine (hf download {model} --local-dir FOLDER) and set "
            f"{setting}: FOLDER"
        ) from error
