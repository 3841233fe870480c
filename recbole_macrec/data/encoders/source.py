"""Where a pretrained model comes from: a local folder or the Hugging Face hub, and loading from there."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from recbole_macrec.data.fetch.hosts import Hosts, Unreachable
from recbole_macrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

READ = (".json", ".txt", ".model", ".safetensors", ".bin")  # files of a model folder that transformers reads
WHOLE = 64 * 2**20  # files up to this many bytes are hashed whole
SAMPLES, SAMPLE = 64, 2**20  # of larger ones so many blocks of so many bytes


class Source(NamedTuple):
    """A model that was found; everything loaded from it is of one revision."""

    model: str  # as the user named it
    path: str  # what transformers loads: a folder or a hub name
    commit: str | None  # on the hub
    identity: dict[str, str]  # what must stay the same for features to stay valid
    config: PretrainedConfig

    @property
    def revision(self) -> str:
        """The commit, or the content hash of a local folder."""
        return self.commit or self.identity["content"]

    def load(self, auto_class: type, **arguments: Any) -> Any:
        """Return ``auto_class.from_pretrained`` of this revision; UserError when a part is missing or damaged."""
        if self.commit:
            arguments["local_files_only"] = not hub_answers()
        with _loading(self.model, Path(self.path).is_dir()):
            return auto_class.from_pretrained(self.path, revision=self.commit, trust_remote_code=False, **arguments)


def find_model(model: str, revision: str | None = None) -> Source:
    """Find a model by hub name or local folder; UserError in one sentence if there is none."""
    from transformers import AutoConfig
    from transformers.utils import cached_file

    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise UserError(f"revision {revision} is of no use for the local model folder {folder}; leave it out")
        with _loading(model, local=True):
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        return Source(model, str(folder), None, {"content": content_hash(folder)}, config)
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(f"model folder {folder} of encoders does not exist; check the path")
    with _loading(model, local=False):
        # The hub's client keeps files under .../snapshots/<commit>/.
        here_alone = not hub_answers()
        commit = Path(cached_file(model, "config.json", revision=revision or "main", local_files_only=here_alone)).parent.name
        config = AutoConfig.from_pretrained(model, revision=commit, trust_remote_code=False, local_files_only=here_alone)
    # A branch moves with every edit of the model's page, so what was asked for is what counts, not its commit.
    return Source(model, model, commit, {"model": model, "revision": revision or "main"}, config)


@cache
def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached; its client would try for half a minute at every file to find out."""
    from huggingface_hub.constants import ENDPOINT

    try:
        Hosts().check(ENDPOINT)
    except Unreachable:
        return False
    return True


def load_model(source: Source, dtype: torch.dtype, device: torch.device, unused: tuple[str, ...]) -> PreTrainedModel:
    """Return the model in evaluation mode; its encoder alone where it has a decoder as well.

    Args:
        unused: parts of parameter names that the features do not depend on. Weights of other parts that the files lack,
            which transformers would fill with random numbers, raise UserError.
    """
    from transformers import AutoModel

    arguments = {dtype_argument(): dtype, "output_loading_info": True}
    model, report = source.load(AutoModel, **arguments)
    encoder_alone = bool(getattr(model.config, "is_encoder_decoder", False))
    unused = (*unused, "position_ids", *(("decoder",) if encoder_alone else ()))
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in unused))
    if missing:
        raise UserError(f"model {source.model} lacks the weights {', '.join(missing[:3])}"
                        f"{', ...' if len(missing) > 3 else ''}; choose another pooling, or a complete model")
    model = model.get_encoder() if encoder_alone else model
    try:
        return model.eval().to(device)
    except torch.OutOfMemoryError:
        raise UserError(f"model {source.model} does not fit into the memory of {device}; set precision: bf16 (or fp16), or "
                        "choose a smaller model") from None


def dtype_argument() -> str:
    """The name that ``from_pretrained`` gives to the type of the weights."""
    return "dtype" if transformers_major() >= 5 else "torch_dtype"


def transformers_major() -> int:
    """5 for transformers 5.x."""
    import transformers

    return int(transformers.__version__.split(".")[0])


def content_hash(folder: Path) -> str:
    """Return a hash of the files of a model folder that change what the model does.

    Of files beyond 64 MiB only 64 blocks at even distances are read, so that a model of 13 GB costs a fraction of a second;
    training it further changes nearly every weight, and so the blocks.
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
def _loading(model: str, local: bool) -> Iterator[None]:
    """Turn what transformers raises for models it cannot load into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 200 else f"{reason[:200]} ..."
        if "trust_remote_code" in str(error):
            raise UserError(f"model {model} needs code of its own, which is never run (trust_remote_code stays off); choose a "
                            "model that transformers knows") from error
        if local:
            raise UserError(f"model folder {model} of encoders is not readable ({reason}); it needs what save_pretrained "
                            "writes: config.json, weights, and the tokenizer's or image processor's files") from error
        raise UserError(f"model '{model}' of encoders is not on this machine and can't be downloaded ({reason}); check name, "
                        f"revision and network, or fetch it elsewhere (hf download {model} --local-dir FOLDER) and set "
                        "model: FOLDER") from error
