"""The learning rate schedule, gradient clipping and early stopping of our trainer."""
import numpy as np
import pytest
import torch
from small_models import data_path, prepare, train_until  # noqa: F401  data_path is a fixture


def test_the_cosine_schedule_ends_at_zero_after_the_last_step(data_path):
    _, _, trainer, _ = prepare("SASRecPerUser", data_path, warmup_ratio=0.2, learning_rate=1.0, scheduler="cosine")
    trainer.steps, rates = 10, []
    for trainer.step in range(10):
        trainer._set_learning_rate()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * np.arange(8) / 8)))])


def test_single_steps_have_a_constant_learning_rate(data_path):
    _, _, trainer, (train, _, _) = prepare("SASRecPerUser", data_path, learning_rate=0.01, scheduler="cosine")
    for _ in range(4):
        trainer.train_steps(train, 1)
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.01}


def test_gradients_are_clipped(data_path):
    """A step of plain SGD moves the weights by the clipped gradient."""
    options = {"learner": "sgd", "learning_rate": 1.0, "scheduler": "constant", "weight_decay": 0.0, "warmup_ratio": 0.0}
    options |= {"modalities": ["text"], "clip_grad_norm": {"max_norm": 0.01}}
    _, model, trainer, (train, _, _) = prepare("TIGER", data_path, **options)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    trainer.train_steps(train, 1)
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before
    assert moved.double().norm().item() == pytest.approx(0.01, rel=1e-2)


def test_a_run_that_stopped_early_is_not_trained_further_when_resumed(data_path):
    options = {"modalities": ["text"], "quantizer": "rq_kmeans", "epochs": 30, "stopping_step": 0}
    _, _, trainer, (train, valid, _) = prepare("TIGER", data_path, **options)
    expected = trainer.fit(train, valid)
    assert 1 < len(trainer.train_loss_dict) < 30
    _, _, resumed, (train, valid, _) = prepare("TIGER", data_path, **options, resume=trainer.newest_model_file)
    assert resumed.fit(train, valid) == expected and not resumed.train_loss_dict


def test_a_resumed_run_stops_after_as_many_validations_without_improvement(data_path):
    options = {"modalities": ["text"], "quantizer": "rq_kmeans", "epochs": 9, "stopping_step": 1}
    _, _, left, (train, valid, _) = prepare("TIGER", data_path, **options)
    left.best_valid_score = 2.0  # no validation is better
    train_until(left, 1, train, valid)
    assert left.cur_step == 1
    _, _, resumed, (train, valid, _) = prepare("TIGER", data_path, **options, resume=left.newest_model_file)
    resumed.fit(train, valid)
    assert list(resumed.train_loss_dict) == [1] and resumed.cur_step == 2
