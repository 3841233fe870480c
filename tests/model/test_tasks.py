"""Training tasks by hand: shared passes, and the share of windows that trains tasks between modalities."""
import pytest
import torch

from recbole_macrec.generation.network.windows import Windows
from recbole_macrec.model.tasks import SourceTasks, Task, group_by_shape, group_by_source, random_count, split_by_tasks

OWN, ACROSS = [Task("text", "text"), Task("image", "image")], [Task("text", "image"), Task("image", "text")]


def test_tasks_of_a_source_share_a_pass_unless_each_has_a_prompt():
    assert group_by_source(OWN + ACROSS, False) == [("text", ["text", "image"]), ("image", ["image", "text"])]
    assert group_by_source(OWN + ACROSS[:1], True) == [("text", ["text"]), ("image", ["image"]), ("text", ["image"])]
    assert group_by_source([], False) == []


def test_sources_share_a_pass_if_their_ids_and_those_of_their_targets_have_the_same_lengths():
    levels = {"a": 4, "b": 4, "c": 3}
    alone = [SourceTasks(name, [name]) for name in levels]
    assert group_by_shape(alone, levels) == [alone[:2], alone[2:]]
    crossed = [SourceTasks("a", ["a", "b"]), SourceTasks("b", ["a", "b"])]  # the first target is own in one
    assert group_by_shape(crossed, levels) == [crossed[:1], crossed[1:]]


@pytest.mark.parametrize("share, total, least, most", [(0.25, 2, 0, 1), (0.1, 4, 0, 1), (0.3, 5, 1, 2)])
def test_a_share_of_a_small_batch_is_right_on_average(share, total, least, most):
    torch.manual_seed(0)
    counts = [random_count(share, total) for _ in range(4000)]
    assert set(counts) == {least, most} and sum(counts) / 4000 == pytest.approx(share * total, abs=0.04)


def test_a_whole_share_draws_nothing():
    before = torch.get_rng_state()
    assert [random_count(share, total) for share, total in ((0.25, 64), (1.0, 7), (0.0, 7), (0.1, 30))] == [16, 7, 0, 3]
    assert torch.get_rng_state().equal(before)


def test_share_of_windows_with_all_tasks():
    windows = Windows(torch.arange(24).view(8, 3), torch.full((8,), 3), torch.full((8,), 2))
    (every, all_tasks), (within, own_tasks) = split_by_tasks(windows, OWN + ACROSS, 0.25)
    assert (every, within) == (OWN + ACROSS, OWN) and (len(all_tasks.length), len(own_tasks.length)) == (2, 6)
    assert torch.cat([all_tasks.items, own_tasks.items]).sort(0).values.equal(windows.items)
    assert [tasks for tasks, _ in split_by_tasks(windows, OWN + ACROSS, 0.0)] == [OWN]
    assert split_by_tasks(windows, OWN, 0.0) == [(OWN, windows)]
