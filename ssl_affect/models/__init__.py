"""Networks by name. Importing this package registers all of them."""

from ssl_affect.models import hand_made as _hand_made  # noqa: F401  (registers its models)
from ssl_affect.models import hicmae as _hicmae  # noqa: F401  (registers its models)
from ssl_affect.models import mae_dfer as _mae_dfer  # noqa: F401  (registers its models)
from ssl_affect.models import svfap as _svfap  # noqa: F401  (registers its models)
from ssl_affect.models import videomae as _videomae  # noqa: F401  (registers its models)
from ssl_affect.models.pretrained import from_pretrained
from ssl_affect.models.registry import (
    ModelSpec,
    create_model,
    create_pretraining_model,
    list_models,
    model_info,
    resolve_arch,
)

__all__ = [
    "ModelSpec",
    "create_model",
    "create_pretraining_model",
    "from_pretrained",
    "list_models",
    "model_info",
    "resolve_arch",
]
