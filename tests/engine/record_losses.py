"""Train like tools/train.py and write the loss of every iteration, averaged over processes, as JSON."""

import json
import multiprocessing
import os
import socket
import sys
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS

from convnext_dense.engine import train_model


@HOOKS.register_module(force=True)
class RecordLossesHook(Hook):
    """Collects the losses that the model returns in training."""

    def __init__(self, out):
        self.out = Path(out)
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = torch.as_tensor(outputs["loss"]).detach().clone().double()
        all_reduce(loss, op="mean")
        self.losses.append(loss.item())

    def after_train(self, runner):
        if is_main_process():
            self.out.write_text(json.dumps(self.losses))


def record_losses(out, config, options, **kwargs):
    """Trains and returns the losses."""
    hooks = [*options.get("+custom_hooks", []), dict(type="RecordLossesHook", out=str(out))]
    train_model(config, {**options, "+custom_hooks": hooks}, **kwargs)


def launch(jobs, tmp_path):
    """Runs jobs, arguments of ``record_losses``, in two processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_run_as, args=(rank, port, jobs, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        process.kill()
    said = [(tmp_path / f"stderr_{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], said
    return [json.loads(Path(job["out"]).read_text()) for job in jobs]


def _run_as(rank, port, jobs, tmp_path):
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    sys.stderr = (tmp_path / f"stderr_{rank}").open("w")
    for job in jobs:
        MMLogger._instance_dict.clear()
        record_losses(**deepcopy(job), launcher="pytorch")
