"""Where a model runs."""

import torch

from ssl_affect.errors import ConfigError


def usable_device(name: str) -> torch.device:
    """The device of a name, after something was put there.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...

    Raises:
        ConfigError: there is no such device, or it does not work.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ConfigError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); `ssl-affect doctor` says what there is"
        ) from error
    return device
