"""Train like tools/train.py and write the loss of every iteration, averaged over processes, as JSON."""

import json
from pathlib import Path

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
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
