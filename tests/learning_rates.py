"""The learning rate of every iteration of a config's schedule, by mmengine's own schedulers."""

import torch
from mmengine.registry import PARAM_SCHEDULERS


def rates_of(param_scheduler, peak, *, epochs, per_epoch):
    """Rates of an optimizer with the rate ``peak``, in epochs of ``per_epoch`` iterations."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedulers = [
        PARAM_SCHEDULERS.build({**item, "optimizer": optimizer, "epoch_length": per_epoch}) for item in param_scheduler
    ]
    rates = []
    for _ in range(epochs * per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates
