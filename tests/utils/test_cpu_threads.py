"""Parts of a batch in threads: results in order, the gradient mode of the caller, and no dependence on the number of cores."""
import threading

import numpy as np
import pytest
import torch

from recbole_macrec.utils.cpu_threads import map_in_threads, random_bits, seeded_bits

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


def test_results_are_in_order_and_each_thread_uses_one_core(threads):
    gate = threading.Barrier(threads, timeout=60)  # opens only when this many parts run at the same time

    def work(part):
        gate.wait()
        return part, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        results = list(map_in_threads(work, list(range(6)), CPU))
    assert results == [(i, 1, False, True) for i in range(6)]
    assert torch.get_num_threads() == threads


def test_errors_reach_the_caller_and_threads_stay_usable(threads):
    def work(part):
        if part == 2:
            raise ValueError("part 2")
        return part

    with pytest.raises(ValueError, match="part 2"):
        list(map_in_threads(work, list(range(9)), CPU))
    assert list(map_in_threads(work, [0, 1], CPU)) == [0, 1]


def test_random_numbers_depend_on_the_part_not_on_the_thread(threads):
    def work(seed):
        with seeded_bits(seed):
            return [int(random_bits().random_raw()) for _ in range(2)]

    drawn = list(map_in_threads(work, [5, 6, 7, 5], CPU))
    assert drawn == [np.random.SFC64(seed).random_raw(2).tolist() for seed in (5, 6, 7, 5)]


def test_unseeded_draws_use_torchs_generator():
    def draw(seed):
        torch.manual_seed(seed)
        return [int(random_bits().random_raw()) for _ in range(2)]

    assert draw(1) == draw(1) != draw(2) and len(set(draw(1))) == 2
