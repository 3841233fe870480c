"""State of a quantizer's training on disk, from which the same training resumes."""
import logging
import time
from collections.abc import Callable
from pathlib import Path

from recbole_macrec.errors import UserError
from recbole_macrec.utils.torch_files import read_torch_file, write_torch_file

logger = logging.getLogger(__name__)

KEEP_SECONDS = 300  # seconds between two states; a shorter training keeps none


class StateFile:
    """A file with the newest state of a training.

    Args:
        path: the file; None if no state is kept.
    """

    def __init__(self, path: Path | None):
        self.path, self._written_at = path, time.perf_counter()

    def read(self) -> dict | None:
        """Return the state, a dictionary of tensors and plain values; None if there is none.

        Raises:
            UserError: the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            return read_torch_file(self.path)
        except Exception as error:  # of many types
            raise UserError(f"{self.path}, the state of an unfinished training, is damaged ({type(error).__name__}); delete it "
                            "to train from the beginning.") from error

    def write_if_due(self, state: Callable[[], dict]) -> None:
        """Write ``state()`` if the last state is older than ``KEEP_SECONDS``."""
        if self.path is None or time.perf_counter() - self._written_at < KEEP_SECONDS:
            return
        self.path.parent.mkdir(exist_ok=True)
        write_torch_file(state(), self.path)
        self._written_at = time.perf_counter()
