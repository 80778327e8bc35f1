"""Cost of training that can stop and resume anywhere: the demo's training compared with mmengine's own, in turns.

python -m benchmarks.guards [--rounds 60] [--json FILE]

One process runs the demo's Mask R-CNN on its generated images twice: with mmengine's loop and checkpoint hook, and with
ours plus all other hooks of a run of tools/train.py. An iteration includes loading its images; a checkpoint contains
weights and optimizer. The difference between the two is smaller than its noise, so the work that the guards add to an
iteration is also measured separately.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.nn.utils import get_total_norm

from benchmarks.timing import cpu_name, measure_in_turns
from convnext_dense.config.device import fit_to_device
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.engine import CheckpointHook, InterruptHook, NonFiniteHook, read_config
from convnext_dense.engine.batch_sampler import SeededBatch, seed_step
from convnext_dense.engine.preparing import make_resumable

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
NUM_IMAGES = 64
OPTIONS = {
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_cfg": None,
    "val_dataloader": None,
    "val_evaluator": None,
    "log_level": "ERROR",
}
EPOCH = 150  # iterations of the demo between two checkpoints: 600 images, 4 at a time


def prepare(data: Path, work_dir: Path, change: Callable[[Config], object]) -> Runner:
    """Build a runner and do what ``Runner.train`` does before the first iteration."""
    cfg = read_config(CONFIG, OPTIONS)
    init_default_scope("mmdet")
    cfg.launcher, cfg.work_dir = "none", str(work_dir)
    use_folder(cfg, str(data), None, None)
    fit_to_device(cfg)
    change(cfg)
    runner = Runner.from_cfg(cfg)
    loop = runner.train_loop
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.call_hook("before_run")
    runner.model.init_weights()
    runner.optim_wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
    runner.call_hook("before_train")
    runner.call_hook("before_train_epoch")
    runner.model.train()
    return runner


def iterate(runner: Any) -> Callable[[], None]:
    """Return a function that loads a batch and trains on it."""
    loop = runner.train_loop
    batches = loop._batches(endless=True) if hasattr(loop, "_batches") else None
    batches = batches or itertools.chain.from_iterable(itertools.repeat(loop.dataloader))
    return lambda: loop.run_iter(0, next(batches))


def save(runner: Any) -> Callable[[], None]:
    """Return a function that writes a checkpoint."""
    hook = next(hook for hook in runner.hooks if hasattr(hook, "_save_checkpoint"))
    return lambda: hook._save_checkpoint(runner)


def parts(runner: Any) -> dict[str, Callable[[], object]]:
    """Return the work that the guards add to an iteration, as separate functions."""
    size = runner.train_loop.dataloader.batch_sampler.batch_size
    own = [hook for hook in runner.hooks if isinstance(hook, InterruptHook | NonFiniteHook)]
    interrupt, nonfinite = sorted(own, key=lambda hook: isinstance(hook, NonFiniteHook))
    gradients = [torch.rand_like(param) for param in runner.model.parameters()]

    def check() -> None:
        nonfinite.before_train_iter(runner, 0, None)
        nonfinite._before_step(runner, "", runner.optim_wrapper)
        nonfinite.after_train_iter(runner, 0)

    return {
        "seeds of the images": lambda: list(SeededBatch(list(range(size)), (1, 2, 3, 4, 5))),
        "seeds of the model": lambda: seed_step(0, 1),
        "look for what is not finite": check,
        "look for a signal": lambda: interrupt.after_train_iter(runner, 0),
        "norm of the gradients, where they are not clipped": lambda: get_total_norm(gradients),
    }


def main() -> None:
    """Parse the arguments, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="iterations of each kind (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_coco(data, NUM_IMAGES, num_val=4)
        runners = {
            "mmengine": prepare(data, Path(folder, "mmengine"), lambda cfg: None),
            "guarded": prepare(data, Path(folder, "guarded"), make_resumable),
        }
        assert any(isinstance(hook, CheckpointHook) for hook in runners["guarded"].hooks)
        ways = {name: iterate(runner) for name, runner in runners.items()}
        iterations = measure_in_turns(ways, device="cpu", rounds=args.rounds, warmups=3)
        ways = {name: save(runner) for name, runner in runners.items()}
        checkpoints = measure_in_turns(ways, device="cpu", rounds=10, warmups=1)
        alone = measure_in_turns(parts(runners["guarded"]), device="cpu", rounds=200, warmups=3)
        for hook in runners["guarded"].hooks:
            if isinstance(hook, InterruptHook):
                hook.release()
    result = dict(cpu=cpu_name(), threads=1, torch=torch.__version__, rounds=args.rounds)
    result.update(iteration=iterations, checkpoint=checkpoints)
    for clock in ("processor_ms", "ms"):
        epoch = {name: EPOCH * iterations[name][clock] + checkpoints[name][clock] for name in runners}
        result[f"overhead_percent_{clock}"] = round(100 * (epoch["guarded"] / epoch["mmengine"] - 1), 2)
    result["alone"] = {name: times["processor_ms"] for name, times in alone.items()}
    added = sum(result["alone"].values())
    result["alone_percent"] = round(100 * added / iterations["mmengine"]["processor_ms"], 2)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
