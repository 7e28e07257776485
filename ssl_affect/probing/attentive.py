"""The attentive probe: one learned query looks at the frozen tokens of a clip, and a linear map reads what it saw.

It can weigh tokens, which a probe on their mean cannot, and still leaves the network as it is (Bardes et al., V-JEPA, 2024,
arXiv:2404.08471, probe video features this way). Axis letters: n clips, L tokens, D width, K outputs.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import CrossAttention
from ssl_affect.layers.block import LayerNorm
from ssl_affect.probing.linear import check_part, choose
from ssl_affect.probing.targets import ProbeTargets, probe_loss, probe_score

logger = logging.getLogger(__name__)

EPOCHS = 20
_MIN_STEPS = 300
_HEAD_WIDTH = 64
_ROWS = 256  # clips that are read at a time outside of training


class AttentivePool(nn.Module):
    """Tokens in, outputs out.

    Args:
        dim: Width D of the tokens.
        num_outputs: Outputs K.
        num_heads: Attention heads; None: one per 64 dimensions, as far as that divides.
    """

    def __init__(self, dim: int, num_outputs: int, num_heads: int | None = None) -> None:
        super().__init__()
        heads = num_heads or next(h for h in range(max(1, dim // _HEAD_WIDTH), 0, -1) if dim % h == 0)
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.norm = LayerNorm(dim)
        self.attn = CrossAttention(dim, heads)
        self.out_norm = LayerNorm(dim)
        self.head = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, L, D] -> [n, K]."""
        seen = self.attn(self.query.expand(len(tokens), -1, -1), self.norm(tokens))
        return self.head(self.out_norm(seen[:, 0]))


@dataclass(frozen=True, slots=True)
class AttentiveProbe:
    """A trained probe.

    Args:
        pool: The module.
        shift: float32 [K], and
        scale: float32 [K]: outputs are ``pool(tokens) * scale + shift``; 0 and 1 except for values.
        epoch: Epoch that was chosen.
        scores: Epoch -> score on the validation part; empty without one.
    """

    pool: AttentivePool
    shift: Tensor
    scale: Tensor
    epoch: int
    scores: dict[int, float]

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Outputs float32 [n, K], on the CPU, for tokens [n, L, D]: logits, or values."""
        device = self.pool.query.device
        parts = [self.pool(rows.to(device).float()).cpu() for rows in tokens.split(_ROWS)]
        return torch.cat(parts) * self.scale + self.shift


def fit_attentive(
    tokens: Tensor,
    targets: ProbeTargets,
    *,
    validation: tuple[Tensor, ProbeTargets] | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    class_weights: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveProbe:
    """Trains an attentive probe with AdamW and a cosine schedule; the best epoch on the validation part is kept.

    Equal arguments give equal probes on a CPU; the global random state is left as it is.

    Args:
        tokens: Of the training clips, [n, L, D], normalised, in any floating type.
        targets: Their labels.
        validation: Tokens and labels to choose the epoch by (:func:`~ssl_affect.probing.targets.probe_score`; the first
            of those that are equally good). None keeps the last.
        epochs: Passes over the training clips; None takes 20, and on small sets as many as make 300 steps.
        batch_size: Clips per step.
        lr: Peak learning rate, after a warm-up of a tenth of the steps.
        weight_decay: Of the matrices.
        class_weights: See :func:`~ssl_affect.probing.targets.probe_loss`.
        seed: Of weights and order.
        device: Where to train.

    Raises:
        ConfigError: there is nothing to learn from, or a number is not possible.
    """
    check_part(tokens, targets, "training", ndim=3)
    if validation is not None:
        check_part(*validation, "validation", ndim=3)
    if batch_size < 1 or (epochs is not None and epochs < 1) or lr <= 0 or weight_decay < 0:
        raise ConfigError(
            f"fit_attentive: epochs={epochs} and batch_size={batch_size} must be at least 1, lr={lr} above 0 and"
            f" weight_decay={weight_decay} not negative"
        )
    labelled = targets.mask.any(dim=1).nonzero()[:, 0]
    steps = math.ceil(len(labelled) / batch_size)
    if epochs is None:
        epochs = max(EPOCHS, math.ceil(_MIN_STEPS / steps))
    shift, scale = _units(targets)
    known = ProbeTargets(targets.kind, (targets.values - shift) / scale, targets.mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool = AttentivePool(tokens.shape[-1], targets.num_outputs).to(device)
    order = torch.Generator().manual_seed(seed)
    optimizer, scheduler = _optimizer(pool, lr, weight_decay, epochs * steps)
    weights = None if class_weights is None else class_weights.to(device)
    scores, best = {}, None
    for epoch in range(1, epochs + 1):
        pool.train()
        with torch.enable_grad():
            for rows in labelled[torch.randperm(len(labelled), generator=order)].split(batch_size):
                loss = probe_loss(known.rows(rows).to(device), pool(tokens[rows].to(device).float()), weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
        pool.eval()
        if validation is not None:
            probe = AttentiveProbe(pool, shift, scale, epoch, {})
            scores[epoch] = probe_score(validation[1], probe(validation[0]))
            if best is None or choose(scores) == epoch:
                best = {name: tensor.clone() for name, tensor in pool.state_dict().items()}
    if best is not None:
        pool.load_state_dict(best)
    return AttentiveProbe(pool.requires_grad_(False), shift, scale, choose(scores) if scores else epochs, scores)


def _units(targets: ProbeTargets) -> tuple[Tensor, Tensor]:
    """Mean and deviation [K] of values, so that one learning rate fits all; 0 and 1 for the other kinds."""
    zero, one = torch.zeros(targets.num_outputs), torch.ones(targets.num_outputs)
    if targets.kind != "values":
        return zero, one
    count = targets.mask.sum(dim=0).clamp(min=1)
    mean = (targets.values * targets.mask).sum(dim=0) / count
    deviation = (((targets.values - mean) * targets.mask).square().sum(dim=0) / count).sqrt()
    return mean, torch.where(deviation > 0, deviation, one)


def _optimizer(
    pool: AttentivePool, lr: float, weight_decay: float, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    matrices = [p for p in pool.parameters() if p.ndim == 2]
    vectors = [p for p in pool.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    warmup = max(1, num_steps // 10)

    def factor(step: int) -> float:
        rest = (step - warmup) / max(1, num_steps - warmup)
        return (step + 1) / (warmup + 1) if step < warmup else 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
