"""Every way of naming weights, and the folder or file it stands for.

======================================  ================================================================================
``runs/x/last.ckpt``, ``weights/x``     a checkpoint of a run, or a released folder
``mae_dfer_base.voxceleb2``             a name of the table of weights: imported here before, or downloaded
``hf-hub:org/name``                     any repository on the hub; ``hf-hub:org/name@revision`` pins it
======================================  ================================================================================
"""

import os
from pathlib import Path

from ssl_affect.backbones.hub import fetch
from ssl_affect.backbones.table import Backbone, get_backbone, list_backbones
from ssl_affect.errors import CheckpointError, ConfigError

HUB_PREFIX = "hf-hub:"
HOME_VARIABLE = "SSL_AFFECT_HOME"


def locate(weights: str | Path, *, offline: bool = False, endpoint: str | None = None) -> Path:
    """The folder or file that some weights lie in; downloads them where they are to be had on a hub.

    Args:
        weights: See the table above. What exists as a path is taken as a path.
        offline: Do not use the network; what was downloaded before is found.
        endpoint: Address of a mirror of the hub; None is ``HF_ENDPOINT`` or the public hub.

    Raises:
        ConfigError: no such path and no such name.
        CheckpointError: the weights have to be fetched by hand, cannot be reached, or did not arrive whole.
    """
    text = str(weights)
    if text.startswith(HUB_PREFIX):
        repo, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
        return fetch(repo, revision=revision or None, offline=offline, endpoint=endpoint)
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if isinstance(weights, Path) or os.sep in text or text.endswith(".ckpt"):
        raise CheckpointError(
            f"{path}: no such file or folder; give a folder written by `ssl-affect export` or `ssl-affect convert`, a .ckpt"
            " of a training run, a name of `ssl-affect backbones list`, or hf-hub:organisation/name"
        )
    if text not in list_backbones():
        if (imported := store(text)).is_dir():
            return imported
        raise ConfigError(
            f"{_unknown(text)} Or give a folder written by `ssl-affect export`, a .ckpt of a training run, or"
            " hf-hub:organisation/name"
        )
    return _of_table(get_backbone(text), offline=offline, endpoint=endpoint)


def home() -> Path:
    """Where weights lie that were imported under a name: ``$SSL_AFFECT_HOME``, else ``~/.cache/ssl-affect``."""
    if given := os.environ.get(HOME_VARIABLE):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ssl-affect"


def store(name: str) -> Path:
    """The folder of imported weights of this name; it need not exist.

    Raises:
        ConfigError: the name cannot be that of a folder.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"{name!r} cannot name weights; use letters, digits, '_', '-' and '.', for instance vit.mine")
    return home() / "backbones" / name


def by_hand_text(backbone: Backbone) -> str:
    """How to get weights that cannot be downloaded; empty where there is no way."""
    if backbone.by_hand is None:
        return ""
    return (
        f"get {backbone.by_hand.file} by hand ({backbone.by_hand.where}), then run\n  {backbone.import_command}\nwhich"
        f" checks it and puts it into {store(backbone.name)}"
    )


def _of_table(backbone: Backbone, *, offline: bool, endpoint: str | None) -> Path:
    if (imported := store(backbone.name)).is_dir():
        return imported
    if backbone.hub is not None:
        return fetch(
            backbone.hub.repo,
            revision=backbone.hub.revision,
            config_sha256=backbone.hub.config_sha256,
            offline=offline,
            endpoint=endpoint,
        )
    raise CheckpointError(
        f"{backbone.name} is not on this machine and cannot be downloaded; {by_hand_text(backbone) or 'ask its owner'}"
    )


def _unknown(name: str) -> str:
    try:
        get_backbone(name)
    except ConfigError as error:
        return f"{error}."
    return ""
