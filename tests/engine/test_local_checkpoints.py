"""mmengine's runner reads every checkpoint that ``load_weights`` reads, in all places that take one."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from safetensors.torch import save_file
from torch import nn

from convnext_dense.engine import read_local_checkpoint


def content_of(model, **options):
    file = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 3}}, file, **options)
    return file.getvalue()


def write_zip(path, model):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/epoch_3.pth", content_of(model))


WRITERS = {
    "epoch_3.pth": lambda path, model: path.write_bytes(content_of(model)),
    "legacy.pth": lambda path, model: path.write_bytes(content_of(model, _use_new_zipfile_serialization=False)),
    "protocol_4.pth": lambda path, model: path.write_bytes(content_of(model, pickle_protocol=4)),
    "epoch_3.pth.gz": lambda path, model: path.write_bytes(gzip.compress(content_of(model))),
    "epoch_3.zip": write_zip,
    "epoch_3.safetensors": lambda path, model: save_file(model.state_dict(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_runner_reads_every_kind_of_file(name, tmp_path):
    trained, model = nn.Linear(3, 2), nn.Linear(3, 2)
    WRITERS[name](tmp_path / name, trained)
    load_checkpoint(model, str(tmp_path / name), map_location="cpu", strict=True)
    assert torch.equal(model.weight, trained.weight)


def test_other_modules_of_a_config_start_from_every_kind_of_file(tmp_path):
    class Neck(BaseModule):
        def __init__(self):
            super().__init__(dict(type="Pretrained", checkpoint=str(tmp_path / "epoch_3.zip")))
            self.layer = nn.Linear(3, 2)

    trained = Neck()
    write_zip(tmp_path / "epoch_3.zip", trained)
    neck = Neck()
    neck.init_weights()
    assert torch.equal(neck.layer.weight, trained.layer.weight)


def test_weights_outlive_the_file(tmp_path):
    """A resumed run may overwrite the checkpoint that it started from."""
    path = tmp_path / "epoch_3.pth"
    WRITERS[path.name](path, nn.Linear(3, 2))
    content = read_local_checkpoint(str(path))
    before = content["state_dict"]["weight"].clone()
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    assert torch.equal(content["state_dict"]["weight"], before)


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for protocol in (2, 4):
        torch.save({"state_dict": {}, "other": Attack()}, tmp_path / "a.pth", pickle_protocol=protocol)
        with pytest.raises(ValueError, match=r"a\.pth asks for more than tensors and plain values"):
            CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
        assert not (tmp_path / "ran").exists()
