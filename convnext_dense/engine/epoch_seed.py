"""Makes an epoch a function of the run's seed and its own number."""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import set_random_seed

from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds python, numpy and torch at the start of every epoch, and tells the data set which epoch it is.

    mmengine's checkpoints hold the seed and the epoch but no random states, so that a resumed run mixes other images
    and drops other paths than the one that was interrupted. With this hook it does not, in any process.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner) -> None:
        """Seeds this process and the data set."""
        loader = runner.train_dataloader
        if hasattr(loader.dataset, "start_epoch"):
            loader.dataset.start_epoch(runner.seed, runner.epoch, loader.batch_size)
        if hasattr(loader.sampler, "seed"):
            loader.sampler.seed = runner.seed  # a resumed run takes its seed from the checkpoint, after it was built
        # Processes differ, as they do at the start of a run of the official code (main.py: seed + rank).
        set_random_seed((runner.seed + 1000003 * runner.epoch + get_rank()) % 2**32)
