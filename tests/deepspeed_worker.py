"""One of several processes that train a small MAE-DFER under DeepSpeed's engine on a CPU; run as a script.

Four steps; the same four with the state moved into a new engine after two; and, on rank 0, the same four by AdamW alone.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from ssl_affect.masking import make_mask
from ssl_affect.models import create_pretraining_model
from ssl_affect.optim import build_optimizer
from ssl_affect.training.sharding import whole_weights
from ssl_affect.training.zero import load_optimizer_state, load_weights_of, whole_optimizer_state, whole_weights_of
from ssl_affect.types import MaskSpec

ARCH = {"img_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
ARCH |= {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
CLIP = 0.5


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = create_pretraining_model("mae_dfer_tiny", **ARCH)

    def forward(self, video, mask):
        return self.model.loss(video, mask).total


def optimizer_of(model):
    return build_optimizer(model.model, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))


def batches(model):
    generator = torch.Generator().manual_seed(1)
    spec = MaskSpec(kind="part_window", ratio=0.75, window=(2, 4))
    for _ in range(4):
        yield torch.randn(4, 3, 4, 32, 32, generator=generator), make_mask(spec, model.model.grid, 4, generator)


def engine_of(config):
    model = Model()
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer_of(model), config=config, dist_init_required=False
    )
    return engine


def take(engine, steps):
    rank = dist.get_rank()
    losses = []
    for video, mask in steps:
        loss = engine(video[2 * rank : 2 * rank + 2], mask[2 * rank : 2 * rank + 2])
        engine.backward(loss)
        engine.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / dist.get_world_size())
    return losses


def distance(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in b)


def main(stage: int, out: Path) -> None:
    torch.set_num_threads(1)
    backend = sys.modules["deepspeed.comm.torch"]
    backend.build_shm_op = lambda: None  # gloo will do; building the other takes a compiler minutes
    deepspeed.init_distributed("gloo")
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": CLIP,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    data = list(batches(Model()))
    first = engine_of(config)
    losses = take(first, data[:2])
    weights = whole_weights_of(first.module, keep=True)
    state = whole_optimizer_state(first.module, first.optimizer, keep=True)
    with whole_weights(first.module):
        gathered = distance({n: p.detach() for n, p in first.module.named_parameters()}, weights)
    losses += take(first, data[2:])
    straight = whole_weights_of(first.module, keep=True)
    second = engine_of(config)
    load_weights_of(second.module, weights)
    load_optimizer_state(second.module, second.optimizer, state)
    resumed_losses = take(second, data[2:])
    resumed = whole_weights_of(second.module, keep=True)
    model = Model()
    optimizer = optimizer_of(model)
    alone, states = [], []
    for number, (video, mask) in enumerate(data):
        loss = model(video, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        alone.append(float(loss))
        if number == 1:
            states = [{k: v.clone() for k, v in values.items()} for values in optimizer.state_dict()["state"].values()]
    model.load_state_dict(straight)
    if dist.get_rank() == 0:
        moments = max(
            float((state["state"][i][key] - values[key]).abs().max())
            for i, values in enumerate(states)
            for key in values
        )
        result = {
            "losses": losses,
            "alone": alone,
            "resumed_losses": resumed_losses,
            "gathered": gathered,
            "resumed": distance(resumed, straight),
            "moments": moments,
            "groups": [group["names"] for group in state["param_groups"]]
            == [group["names"] for group in optimizer.param_groups],
            "steps": sorted({float(values["step"]) for values in state["state"].values()}),
        }
        out.write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
