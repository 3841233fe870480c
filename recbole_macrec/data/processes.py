"""The processes that torchrun started, which encode one catalogue together."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from recbole_macrec.errors import UserError

PATIENCE = timedelta(days=1)  # how long a process waits for one that is alive; one that ended is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process and how many there are; with one, agreeing and waiting do nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def agree(self, answer: bool) -> bool:
        """Return the first process's answer in all of them."""
        if self.count == 1:
            return answer
        answers = [answer]
        with _others_alive():
            dist.broadcast_object_list(answers, src=0)
        return answers[0]

    def wait(self) -> None:
        """Wait until all have come here; UserError in each if one has ended before."""
        if self.count > 1:
            with _others_alive():
                dist.barrier()


ALONE = Processes()


@contextmanager
def launched() -> Iterator[Processes]:
    """Join the processes that a launcher describes in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, if it did."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Return the GPU of LOCAL_RANK, the first without a launcher, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError("another process of this run ended before its work was done; its own message says why. Finished "
                        "shards are kept: start again to go on") from error
