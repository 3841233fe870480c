"""The interface of every model of this package for the plugin and the trainer."""
from collections.abc import Iterable
from typing import ClassVar

from recbole_macrec.config.schema.base import Options


class RegisteredModel:
    """Mixin before a RecBole model class. Its methods are the defaults of a model that needs nothing special.

    Attributes:
        options: the schema of the model's options.
        trainer_class: the class of its trainer, set by the plugin; GenerativeTrainer by default.
        dataset_class: the class of its dataset; SemanticIDDataset, set by the plugin.
    """

    options: ClassVar[type[Options]]
    trainer_class: type
    dataset_class: type

    @classmethod
    def reads_semantic_ids(cls, config) -> bool:
        """Whether a model with these settings needs semantic IDs."""
        return False

    @classmethod
    def reads_features(cls, config) -> bool:
        """Whether a model with these settings reads item features itself, besides those of semantic IDs."""
        return False

    @classmethod
    def settings_of_split(cls, split: dict) -> dict:
        """Evaluation options for RecBole when ``eval_args`` sets the split ``split``."""
        return {}

    @classmethod
    def check_values(cls, config: dict) -> None:
        """Check options that :attr:`options` does not declare, or that depend on each other, before any data are read.

        Args:
            config: the final settings; a missing option is None.

        Raises:
            UserError: for the first invalid value.
        """

    @classmethod
    def check_modalities(cls, modalities: list[str]) -> None:
        """Check the modalities whose semantic IDs the model reads, before the IDs are learnt.

        Raises:
            UserError: the model needs others.
        """

    def start_from(self, state: dict, file: str) -> None:
        """Called before the first epoch with the checkpoint of ``pre_model_path``, if the model has this option.

        Args:
            state: content of the checkpoint.
            file: its path, for messages.
        """
        raise NotImplementedError

    def with_top(self, k: int) -> "RegisteredModel":
        """Return a model with the same weights that ranks at least ``k`` items for each user."""
        return self

    def before_epoch(self, epoch: int, resumed: bool = False) -> None:
        """Called by the trainer before each epoch.

        Args:
            resumed: training resumes within the epoch, from a checkpoint that was written after this call for the same epoch.
        """

    def long_preparation(self) -> Iterable[None]:
        """Prepare the model for training, in parts; called by the trainer after each :meth:`before_epoch`.

        It yields between the parts. There training can pause, with :meth:`preparation_state` in the checkpoint.
        """
        return ()

    def preparation_state(self) -> dict:
        """The state of an unfinished :meth:`long_preparation`, as tensors and plain values."""
        return {}

    def load_preparation_state(self, state: dict) -> None:
        """Restore :meth:`preparation_state`; :meth:`long_preparation` then continues there."""
