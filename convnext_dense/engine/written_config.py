"""The config that a run writes into its log, its work dir and every checkpoint."""

import copy
from typing import ClassVar

from mmengine.config import Config


class WrittenConfig(Config):
    """A config that caches its formatted text.

    mmengine needs the text three times at the start of a run and once per checkpoint, and yapf takes about a second
    each time.
    """

    _formatted: ClassVar[dict[str, str]] = {}

    @classmethod
    def of(cls, cfg: Config) -> "WrittenConfig":
        """Return a copy of a config."""
        written = cls.__new__(cls)
        for key, value in copy.deepcopy(cfg).__dict__.items():
            super(Config, written).__setattr__(key, value)
        return written

    @property
    def pretty_text(self) -> str:
        """The text of the config as Python, as mmengine formats it."""
        content = repr(self._cfg_dict)
        if content not in self._formatted:
            text = super().pretty_text
            self._formatted.clear()
            self._formatted[content] = text
        return self._formatted[content]
