"""Options of configs that make a run small, by dotted key; and where mmengine has yapf's function from."""

from mmengine.config import config
from yapf.yapflib import yapf_api

# onedl-mmengine imports the function when it needs it.
FORMATTER = config if hasattr(config, "FormatCode") else yapf_api

# Data loaders without processes of their own.
LOADERS = {
    f"{loader}_dataloader.{key}": value
    for loader in ("train", "val", "test")
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
# One block per stage, and few channels.
SMALLEST_ARCH = dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))
