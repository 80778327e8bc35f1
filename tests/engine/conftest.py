"""What tests of runs share."""

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def _fresh_logger():
    """mmengine keeps loggers, values and visualizers by name, and a run's name is its second."""
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in list(logger.handlers):
            handler.close()
    for kind in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
