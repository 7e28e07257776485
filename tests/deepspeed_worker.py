"""One of several processes that train a small model under DeepSpeed's engine on a CPU; run as a script.

Four steps; the same four with the state moved into a new engine after two; and, on rank 0, the same four by AdamW alone
with the clips of all processes. HiCMAE gathers the clips of all processes for its contrast, which weighs as much as the
rest here, so that nothing of it can hide behind its usual weight of 0.0025; one clip of every process has no sound.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
import yaml

from ssl_affect.masking import make_mask
from ssl_affect.models import create_pretraining_model
from ssl_affect.optim import build_optimizer
from ssl_affect.training.sharding import whole_weights
from ssl_affect.training.zero import load_optimizer_state, load_weights_of, whole_optimizer_state, whole_weights_of
from ssl_affect.types import MaskSpec

SMOKE = Path(__file__).parents[1] / "configs" / "smoke_hicmae.yaml"
CLIP = 0.1  # every step is clipped
EACH = 3  # clips per process


class Video(torch.nn.Module):
    """MAE-DFER."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        arch = {"img_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        arch |= {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
        self.model = create_pretraining_model("mae_dfer_tiny", **arch)

    def forward(self, video, mask):
        return self.model.loss(video, mask).total

    def batch(self, clips, generator):
        spec = MaskSpec(kind="part_window", ratio=0.75, window=(2, 4))
        return torch.randn(clips, 3, 4, 32, 32, generator=generator), make_mask(spec, self.model.grid, clips, generator)


class VideoAndAudio(torch.nn.Module):
    """HiCMAE."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        arch = yaml.safe_load(SMOKE.read_text())["model"]["init_args"]["arch"]
        sizes = {"img_size": 32, "num_frames": 4, "audio_size": (64, 64), "contrastive_weight": 1.0}
        self.model = create_pretraining_model("hicmae_tiny", **arch, **sizes)
        self.gather = False

    def forward(self, *inputs):
        *inputs, valid = inputs
        return self.model.loss(*inputs, audio_valid=valid, gather=self.gather, gather_size=EACH).total

    def batch(self, clips, generator):
        video, audio = (torch.randn(clips, *s, generator=generator) for s in ((3, 4, 32, 32), (1, 64, 64)))
        masks = (
            make_mask(MaskSpec(kind=kind, ratio=0.75), grid, clips, generator)
            for kind, grid in (("tube", self.model.grid), ("random", self.model.audio_grid))
        )
        return video, audio, *masks, torch.arange(clips) % EACH > 0


MODELS = {"mae_dfer": Video, "hicmae": VideoAndAudio}


def optimizer_of(model):
    return build_optimizer(model.model, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))


def engine_of(make_model, config):
    model = make_model()
    model.gather = True
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer_of(model), config=config, dist_init_required=False
    )
    return engine


def mean_of_all(loss):
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return float(mean) / dist.get_world_size()


def own(batch):
    start = EACH * dist.get_rank()
    return [tensor[start : start + EACH] for tensor in batch]


def take(engine, batches):
    losses = []
    for batch in batches:
        loss = engine(*own(batch))
        engine.backward(loss)
        engine.step()
        losses.append(mean_of_all(loss))
    return losses


def distance(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in b)


def alone(model, batches):
    """Losses and final weights of one process with the clips of all, and the state of its optimizer after two steps."""
    optimizer, losses, norms, states = optimizer_of(model), [], [], []
    for number, batch in enumerate(batches):
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        losses.append(float(loss.detach()))
        if number == 1:
            states = [{k: v.clone() for k, v in values.items()} for values in optimizer.state_dict()["state"].values()]
    assert min(norms) > CLIP
    return losses, states, [group["names"] for group in optimizer.param_groups]


def main(stage: int, method: str, out: Path) -> None:
    torch.set_num_threads(1)
    backend = sys.modules["deepspeed.comm.torch"]
    backend.build_shm_op = lambda: None  # gloo will do; building the other takes a compiler minutes
    deepspeed.init_distributed("gloo")
    config = {
        "train_micro_batch_size_per_gpu": EACH,
        "gradient_clipping": CLIP,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    make_model = MODELS[method]
    model, generator = make_model(), torch.Generator().manual_seed(1)
    data = [model.batch(EACH * dist.get_world_size(), generator) for _ in range(4)]
    with torch.no_grad():
        apart = mean_of_all(model(*own(data[0])))  # every process by itself, nothing gathered
    first = engine_of(make_model, config)
    losses = take(first, data[:2])
    weights = whole_weights_of(first.module, keep=True)
    state = whole_optimizer_state(first.module, first.optimizer, keep=True)
    with whole_weights(first.module):
        gathered = distance({n: p.detach() for n, p in first.module.named_parameters()}, weights)
    losses += take(first, data[2:])
    straight = whole_weights_of(first.module, keep=True)
    second = engine_of(make_model, config)
    load_weights_of(second.module, weights)
    load_optimizer_state(second.module, second.optimizer, state)
    resumed_losses = take(second, data[2:])
    resumed = whole_weights_of(second.module, keep=True)
    single, states, groups = alone(model, data)
    if dist.get_rank() == 0:
        moments = max(
            float((state["state"][i][key] - values[key]).abs().max())
            for i, values in enumerate(states)
            for key in values
        )
        result = {
            "losses": losses,
            "alone": single,
            "apart": apart,
            "weights": distance(straight, model.state_dict()),
            "resumed_losses": resumed_losses,
            "gathered": gathered,
            "resumed": distance(resumed, straight),
            "moments": moments,
            "groups": [group["names"] for group in state["param_groups"]] == groups,
            "steps": sorted({float(values["step"]) for values in state["state"].values()}),
        }
        out.write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
