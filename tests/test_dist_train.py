"""tools/dist_train.sh starts as many processes as it is asked for, by torchrun, and they train one model."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_dense.data.shapes.crops import write_crops

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_crops(tmp_path / "data", 16, num_val=4, image_size=(64, 64), seed=0)
    options = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=4", "train_dataloader.num_workers=0"]
    options += ["train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0"]
    options += ["val_dataloader.persistent_workers=False"]
    command = [ROOT / "tools/dist_train.sh", "demo/convnext_atto_small_images", "2", "--data", tmp_path / "data"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", *map(str, command), "--work-dir", str(tmp_path / "run"), "--cfg-options", *options],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MASTER_PORT": str(port)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "= 2 processes x 4" in done.stdout
    assert done.stdout.count("Training ImageClassifier") == 1  # the main process alone speaks
    assert (tmp_path / "run/epoch_1.pth").is_file()
