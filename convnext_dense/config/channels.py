"""Fits a config to the number of channels of its images."""

from mmengine.config import Config

from convnext_dense.config.custom_imports import add_import
from convnext_dense.errors import UserError

_MODULE, _OURS = "convnext_dense.models.detector_input", "convnext_dense.DetDataPreprocessor"


def fit_to_channels(cfg: Config) -> list[str]:
    """Let a detector take images whose number of channels is not three.

    Args:
        cfg: Changed in place: mmdet's data preprocessor, which requires one or three values of ``mean``, becomes ours.

    Returns:
        One sentence if the preprocessor was changed, or if its ``bgr_to_rgb`` has no effect.

    Raises:
        UserError: ``mean`` and ``std`` do not fit each other or the backbone's channels.
    """
    model = cfg.model.get("module") or cfg.model
    preprocessor = model.get("data_preprocessor") or {}
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    channels = (model.get("backbone") or {}).get("in_channels", 3)
    place = "model.data_preprocessor"
    if mean is None or std is None or not isinstance(channels, int):
        return []
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, list | tuple) or len(values) not in (1, channels):
            raise UserError(
                f"{place}.{name}={values} must have one value per channel, {channels} by "
                "model.backbone.in_channels, or one for all."
            )
    kind = str(preprocessor.get("type")).rpartition(".")[2]
    if channels == 3 or str(preprocessor.get("type")) == _OURS:
        return []
    if kind == "SegDataPreProcessor" and preprocessor.get("bgr_to_rgb"):
        return [f"{place}.bgr_to_rgb=True swaps only three channels: {channels} stay in the order of the file."]
    if kind != "DetDataPreprocessor":
        return []
    preprocessor["type"] = _OURS
    add_import(cfg, _MODULE)
    return [f"{place} is {_OURS}, which takes images of {channels} channels."]
