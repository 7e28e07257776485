"""Self-supervised pretraining of affective representations from unlabeled faces and voices.

Everything a user needs stands here under one name each; the modules behind are loaded on first use, so that
``import ssl_affect`` costs nothing and does not pull in torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that defines it (PEP 562).
_PUBLIC = {
    "AudioSpec": "ssl_affect.types",
    "ClipSpec": "ssl_affect.types",
    "LossParts": "ssl_affect.types",
    "MaskSpec": "ssl_affect.types",
    "Recipe": "ssl_affect.recipe",
    "ShardSet": "ssl_affect.data.shardset",
    "TokenGrid": "ssl_affect.types",
    "convert_state_dict": "ssl_affect.convert",
    "create_model": "ssl_affect.models",
    "create_pretraining_model": "ssl_affect.models",
    "extract_features": "ssl_affect.extract",
    "features_array": "ssl_affect.extract",
    "from_pretrained": "ssl_affect.models",
    "list_backbones": "ssl_affect.backbones.table",
    "list_models": "ssl_affect.models",
    "make_mask": "ssl_affect.masking",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from ssl_affect.backbones.table import list_backbones as list_backbones
    from ssl_affect.convert import convert_state_dict as convert_state_dict
    from ssl_affect.data.shardset import ShardSet as ShardSet
    from ssl_affect.extract import extract_features as extract_features
    from ssl_affect.extract import features_array as features_array
    from ssl_affect.masking import make_mask as make_mask
    from ssl_affect.models import create_model as create_model
    from ssl_affect.models import create_pretraining_model as create_pretraining_model
    from ssl_affect.models import from_pretrained as from_pretrained
    from ssl_affect.models import list_models as list_models
    from ssl_affect.recipe import Recipe as Recipe
    from ssl_affect.types import AudioSpec as AudioSpec
    from ssl_affect.types import ClipSpec as ClipSpec
    from ssl_affect.types import LossParts as LossParts
    from ssl_affect.types import MaskSpec as MaskSpec
    from ssl_affect.types import TokenGrid as TokenGrid


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ssl_affect' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
