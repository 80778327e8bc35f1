"""The text of a run's config is the same as mmengine's, and is formatted once."""

import copy
import pickle

import pytest
from mmengine.config import Config
from small_runs import FORMATTER

from convnext_dense.engine import written_config
from convnext_dense.engine.written_config import WrittenConfig

CONTENT = dict(model=dict(type="A", widths=(1, 2)), steps=[dict(type="B", lr=0.1)], title="a 'b'")


@pytest.fixture
def count_formatting(monkeypatch):
    """Counts how often mmengine calls yapf."""
    calls = []
    original = FORMATTER.FormatCode
    monkeypatch.setattr(FORMATTER, "FormatCode", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    monkeypatch.setattr(written_config.WrittenConfig, "_formatted", {})
    return calls


def test_text_is_mmengines_and_is_formatted_once(count_formatting, tmp_path):
    cfg = Config(copy.deepcopy(CONTENT), cfg_text="title = 1", filename="a.py")
    expected = cfg.pretty_text
    count_formatting.clear()
    written = WrittenConfig.of(cfg)
    copied, pickled = copy.deepcopy(written), pickle.loads(pickle.dumps(written))
    assert type(copied) is type(pickled) is WrittenConfig
    for each in (written, copied, pickled, written):
        assert each.pretty_text == expected
        assert each.filename == "a.py"
    written.dump(tmp_path / "dumped.py")
    assert len(count_formatting) == 1
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()


def test_text_follows_a_change_and_the_original_does_not(count_formatting):
    cfg = Config(copy.deepcopy(CONTENT))
    written = WrittenConfig.of(cfg)
    before = written.pretty_text
    written.model.widths = (3, 4)
    assert written.pretty_text != before
    assert written.pretty_text == Config(written.to_dict()).pretty_text
    assert cfg.model.widths == (1, 2)
