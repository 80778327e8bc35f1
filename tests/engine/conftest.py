"""Fixtures for tests of runs."""

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def _fresh_logger():
    """mmengine caches loggers, values and visualizers by name, and names a run by the current second."""
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in list(logger.handlers):
            handler.close()
    for kind in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
