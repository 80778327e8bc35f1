"""The weights that a backbone starts from if a fine-tuning config asks for some and the user names none."""

from convnext_dense.errors import UserError

_V1 = {
    "atto": "d2_in1k",
    "femto": "d1_in1k",
    "pico": "d1_in1k",
    "nano": "in12k",
    **dict.fromkeys(("tiny", "small", "base", "large", "xlarge"), "fb_in22k"),
}
_V2 = {
    **dict.fromkeys(("atto", "femto", "pico"), "fcmae_ft_in1k"),
    **dict.fromkeys(("nano", "tiny", "base", "large"), "fcmae_ft_in22k_in1k"),
    "huge": "fcmae_ft_in22k_in1k_384",
}
_DINOV3 = dict.fromkeys(("tiny", "small", "base", "large"), "dinov3_lvd1689m")
# Prefix of a name -> timm's family, and its tag for each variant: the one that was trained on the most images.
_TAGS = {
    "convnext-": ("convnext", _V1),
    "convnextv2-": ("convnextv2", _V2),
    "dinov3-convnext-": ("convnext", _DINOV3),
}


def default_weights(name: str) -> str:
    """Return the source of the weights of a backbone such as ``convnext-tiny``, see ``parse_backbone``.

    Raises:
        UserError: There are none.
    """
    prefix = next(prefix for prefix in _TAGS if name.startswith(prefix))
    family, tags = _TAGS[prefix]
    arch = name.removeprefix(prefix)
    if arch not in tags:
        raise UserError(f"There are no weights of {name} to start from: name some with --backbone-weights SRC.")
    return f"timm:{family}_{arch}.{tags[arch]}"
