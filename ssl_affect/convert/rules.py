"""The engine behind the converters: an ordered list of rules, and an account of every name.

A rule says which official tensors make which of ours. Names may contain ``{i}``, the number of a block; the rule then
holds for every block the file has. Each official name must be used by exactly one rule or stand in a table of dropped
names with the reason; each rule must find all its tensors. What remains is refused by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssl_affect.errors import CheckpointError

_BLOCK = "{i}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Official ``sources`` -> our ``target``, by ``make`` (default: one tensor as it is)."""

    target: str
    sources: tuple[str, ...]
    make: Callable[..., Tensor] = field(default=lambda tensor: tensor)


def rename(source: str, target: str) -> Rule:
    """One tensor under another name."""
    return Rule(target, (source,))


def rename_affine(source: str, target: str) -> list[Rule]:
    """``.weight`` and ``.bias`` of one layer under another name."""
    return [rename(f"{source}.{part}", f"{target}.{part}") for part in ("weight", "bias")]


def fuse_rows(sources: Sequence[str], target: str) -> Rule:
    """Matrices stacked along their first axis."""
    return Rule(target, tuple(sources), lambda *tensors: torch.cat(tensors))


def with_prefix(rules: Sequence[Rule], source: str, target: str) -> list[Rule]:
    """The same rules for a part of a larger model."""
    return [
        replace(rule, target=target + rule.target, sources=tuple(source + name for name in rule.sources))
        for rule in rules
    ]


def apply_rules(
    state_dict: Mapping[str, Tensor], rules: Sequence[Rule], *, dropped: Mapping[str, str], source: str
) -> dict[str, Tensor]:
    """Applies every rule to every block.

    Args:
        state_dict: Official names and tensors.
        rules: In the order of the result.
        dropped: Regular expression for a whole official name -> why it is left out.
        source: Whose weights these are, for messages.

    Returns:
        Our names and tensors.

    Raises:
        CheckpointError: names are unknown or missing, or a rule's tensors do not fit together.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for rule in rules:
        for block in _blocks(rule, state_dict):
            names = [name.replace(_BLOCK, block) for name in rule.sources]
            absent = [name for name in names if name not in state_dict]
            missing += absent
            used.update(names)
            if not absent:
                target = rule.target.replace(_BLOCK, block)
                result[target] = _make(rule, [state_dict[name] for name in names], names)
    left = [name for name in state_dict if name not in used]
    unknown = [name for name in left if not any(re.fullmatch(pattern, name) for pattern in dropped)]
    if missing or unknown:
        raise CheckpointError(
            f"not a complete state dict of {source}: missing {_some(missing)}; unknown {_some(unknown)}; check"
            " that the file is from that repository and from an unchanged model"
        )
    return result


def _blocks(rule: Rule, state_dict: Mapping[str, Tensor]) -> list[str]:
    """The block numbers a rule holds for: 0 to the highest that the file has under the rule's prefix."""
    prefix, found, _ = rule.sources[0].partition(_BLOCK)
    if not found:
        return [""]
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in state_dict if name.startswith(prefix)]
    return [str(i) for i in range(max((int(n) for n in numbers if n.isdigit()), default=0) + 1)]


def _make(rule: Rule, tensors: list[Tensor], names: list[str]) -> Tensor:
    try:
        return rule.make(*tensors)
    except (RuntimeError, ValueError) as error:  # einops errors are RuntimeErrors
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True))
        raise CheckpointError(f"{shapes}: cannot be made into {rule.target}: {error}") from error


def _some(names: list[str], limit: int = 8) -> str:
    if not names:
        return "none"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
