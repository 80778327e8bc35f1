"""mmengine's own checkpoints load with weights_only=True; crafted files do not."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.logging.history_buffer import HistoryBuffer

import convnext_dense  # noqa: F401  (allow-lists what mmengine pickles)


def test_message_hub_as_mmengine_stores_it_comes_back(tmp_path):
    hub = MessageHub.get_instance("test_safe_loading")
    for value in (1.0, 2.0, 4.0):
        hub.update_scalar("train/loss", value)
    hub.update_info("iter", 3)
    torch.save({"message_hub": hub.state_dict(), "meta": {"seed": 1, "x": np.float64(2.5)}}, tmp_path / "last.pth")
    loaded = torch.load(tmp_path / "last.pth", weights_only=True)
    buffer = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert buffer.statistics("mean", 2) == 3.0
    np.testing.assert_array_equal(buffer.data[0], [1.0, 2.0, 4.0])
    assert loaded["meta"]["x"] == 2.5


def test_scope_of_another_library_takes_nothing_away(tmp_path):
    """mmengine's fork allow-lists the same classes during a call, after which torch removes them."""
    torch.save({"buffer": HistoryBuffer([1.0], [1]), "meta": np.float64(2.5)}, tmp_path / "last.pth")
    classes = [HistoryBuffer, np.ndarray, np.dtype, type(np.dtype("float64")), type(np.dtype("int64"))]
    with torch.serialization.safe_globals(classes):
        torch.load(tmp_path / "last.pth", weights_only=True)
    assert torch.load(tmp_path / "last.pth", weights_only=True)["meta"] == 2.5


class Getattr:
    """Pickles as a call of builtins.getattr."""

    def __init__(self, owner, name):
        self.arguments = (owner, name)

    def __reduce__(self):
        return getattr, self.arguments


@pytest.mark.parametrize(("owner", "name"), [(HistoryBuffer, "__init__"), (np.ndarray, "tofile"), (HistoryBuffer, "x")])
def test_other_attributes_are_refused(tmp_path, owner, name):
    torch.save({"x": Getattr(owner, name)}, tmp_path / "crafted.pth")
    with pytest.raises(pickle.UnpicklingError, match=name):
        torch.load(tmp_path / "crafted.pth", weights_only=True)


def test_one_of_the_four_statistics_is_given(tmp_path):
    torch.save({"x": Getattr(HistoryBuffer, "mean")}, tmp_path / "plain.pth")
    assert torch.load(tmp_path / "plain.pth", weights_only=True)["x"] is HistoryBuffer.mean
