"""Learning rates that decay from the head down to the stem.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/
object_detection/mmcv_custom/layer_decay_optimizer_constructor.py (arXiv 2201.03545, appendix A.3)
Differs: the backbone provides the id of each parameter (``get_layer_depth``, ``get_stage_depth``), so neither a class
name nor a number of layers is hard-coded.
"""

from dataclasses import dataclass, field

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.registry import OPTIM_WRAPPER_CONSTRUCTORS

_METHODS = {"layer_wise": "get_layer_depth", "stage_wise": "get_stage_depth", "block_wise": "get_block_depth"}


@dataclass
class _Group:
    """One row of the table and one entry of the optimizer's ``param_groups``."""

    layer_id: int
    multiplier: float
    weight_decay: float
    names: list[str] = field(default_factory=list)
    params: list[nn.Parameter] = field(default_factory=list)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds up to two parameter groups per layer id, one with and one without weight decay.

    A parameter's learning rate is ``lr * decay_rate ** (num_layers - layer_id - 1)``; everything outside the
    backbone and the backbone's output norms get the full ``lr``. Biases and one-dimensional parameters get no weight
    decay. Frozen parameters are in no group. The groups are logged as a table.

    ``paramwise_cfg`` is ``dict(decay_rate=0.7, decay_type='layer_wise')``, where ``decay_type`` is ``'layer_wise'``
    (COCO), ``'stage_wise'`` (ADE20K) or ``'block_wise'`` (small V2 models on ImageNet).

    Raises:
        UserError: ``paramwise_cfg`` has other keys or values, or no module of the model provides layer ids.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        cfg = self.paramwise_cfg
        unknown = sorted(set(cfg) - {"decay_rate", "decay_type"})
        if unknown:
            raise UserError(
                f"paramwise_cfg has {', '.join(unknown)}, but takes only decay_rate and decay_type"
                f"{' (the backbone knows its number of layers)' if 'num_layers' in unknown else ''}."
            )
        if not 0.0 < cfg.get("decay_rate", 0.0) <= 1.0:
            raise UserError(f"paramwise_cfg needs a decay_rate in (0, 1], got {cfg.get('decay_rate')}.")
        if self.base_lr is None:
            raise UserError("optim_wrapper.optimizer needs lr, which layer decay multiplies.")
        if cfg.get("decay_type", "layer_wise") not in _METHODS:
            raise UserError(f"decay_type='{cfg['decay_type']}' must be one of {', '.join(_METHODS)}.")

    def add_params(self, params: list[dict], module: nn.Module, **_: object) -> None:
        """Append the groups of every trainable parameter of ``module`` to ``params``."""
        groups = self._group(module)
        print_log(_table(groups, self.base_lr, self.paramwise_cfg), logger="current")
        params.extend(
            dict(
                params=group.params,
                param_names=group.names,
                lr=self.base_lr * group.multiplier,
                lr_scale=group.multiplier,
                weight_decay=group.weight_decay,
            )
            for group in groups
        )

    def summary(self, module: nn.Module) -> str:
        """Return the table that is logged when the groups of ``module`` are built."""
        return _table(self._group(module), self.base_lr, self.paramwise_cfg)

    def _group(self, module: nn.Module) -> list[_Group]:
        decay_rate = self.paramwise_cfg["decay_rate"]
        method = _METHODS[self.paramwise_cfg.get("decay_type", "layer_wise")]
        backbones = _find_backbones(module, method)
        first = next(iter(backbones))

        groups: dict[tuple[int, float], _Group] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            # Parameters outside the backbones follow the last layer; any backbone says so for names without its prefix.
            prefix = max((prefix for prefix in backbones if name.startswith(prefix)), key=len, default=first)
            layer_id, num_layers = getattr(backbones[prefix], method)(name, prefix)
            num_dims = getattr(param, "num_dims", param.dim())  # a shard of a parameter has one dimension
            no_decay = num_dims <= 1 or name.endswith(".bias")
            weight_decay = 0.0 if no_decay else (self.base_wd or 0.0)
            # Counted from the head, because two backbones of one model may have different depths.
            depth = num_layers - layer_id - 1
            group = groups.setdefault((depth, weight_decay), _Group(layer_id, decay_rate**depth, weight_decay))
            group.names.append(name)
            group.params.append(param)

        return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], key[1]))]


def _find_backbones(model: nn.Module, method: str) -> dict[str, nn.Module]:
    """Map the name prefix of every outermost module that provides layer ids to the module."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if callable(getattr(module, method, None)) and not any(prefix.startswith(outer) for outer in found):
            found[prefix] = module
    if not found:
        raise UserError(
            f"Layer decay needs a backbone with {method}(name, prefix), but {type(model).__name__} has none; use "
            "convnext_dense.ConvNeXt, or remove the constructor and paramwise_cfg from optim_wrapper."
        )
    return found


def _table(groups: list[_Group], base_lr: float, paramwise_cfg: dict) -> str:
    decay_type = paramwise_cfg.get("decay_type", "layer_wise")
    lines = [
        f"Learning rates: {decay_type} decay {paramwise_cfg['decay_rate']} from lr {base_lr:g}",
        f"{'layer':>5}  {'multiplier':>10}  {'lr':>9}  {'weight decay':>12}  {'tensors':>7}  {'params':>11}  names",
    ]
    for group in groups:
        size = sum(param.numel() for param in group.params)
        lines.append(
            f"{group.layer_id:>5}  {group.multiplier:>10.6f}  {base_lr * group.multiplier:>9.3g}  "
            f"{group.weight_decay:>12g}  {len(group.params):>7}  {size:>11,}  {group.names[0]} ... {group.names[-1]}"
        )
    return "\n".join(lines)
