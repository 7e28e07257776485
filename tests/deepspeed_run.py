"""``ssl-affect`` with DeepSpeed on a CPU: the strategy of the suite without the one question whether there is a GPU.

Lightning lets DeepSpeed onto CUDA devices only; DeepSpeed itself runs on a CPU (``DS_ACCELERATOR=cpu``). Here the
strategies ``cpu_stage_1`` to ``cpu_stage_3`` leave out that question, so that everything else of a run can be tested.
"""

import sys
from datetime import timedelta

import deepspeed  # noqa: F401
import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from ssl_affect.cli import main
from ssl_affect.training.zero import ZeroStrategy


class ZeroOnCPU(ZeroStrategy):
    """ZeRO with gloo."""

    @property
    def root_device(self) -> torch.device:
        """With a number, as CUDA devices have."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()


for stage in (1, 2, 3):
    StrategyRegistry.register(f"cpu_stage_{stage}", ZeroOnCPU, stage=stage, timeout=timedelta(minutes=4))
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # gloo will do; building the other takes minutes

if __name__ == "__main__":
    sys.exit(main())
