"""What tests of runs share."""

import pytest
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def _fresh_logger():
    """mmengine keeps loggers and visualizers by name, a run's name is its second; each writes its own folder."""
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in list(logger.handlers):
            handler.close()
    for kind in (MMLogger, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
