"""What tests of runs share."""

import pytest
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True)
def _fresh_logger():
    """mmengine keeps loggers by name; each run of a test is to log into its own folder."""
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in list(logger.handlers):
            handler.close()
    MMLogger._instance_dict.clear()
