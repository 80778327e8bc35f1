"""The config that a run writes into its log, its work dir and every checkpoint."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from mmengine.config import Config
from mmengine.dist import is_main_process


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


@contextlib.contextmanager
def kept_unless_begun(cfg: Config, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Put back the config that an earlier run wrote into the work dir, if this run fails before it begins.

    Args:
        cfg: Config of the run; mmengine writes it into the work dir, under its own name, when the runner is built.
        has_begun: Whether the run has begun, asked when it fails.
    """
    path = Path(cfg.work_dir, Path(cfg.filename).name)
    earlier = path.read_bytes() if path.is_file() else None
    try:
        yield
    except BaseException:
        if earlier is not None and not has_begun() and is_main_process():
            path.write_bytes(earlier)
        raise
