"""Shared memory that data workers use again and again for the frames of their batches.

Fresh shared memory is dear: the kernel clears its pages and maps them one by one, which took a third of the time of a
worker that reads packed JPEG. So every worker keeps a few slabs. The process that trains copies the frames out of a slab as
soon as the batch arrives, unless they were copied into page-locked memory already, and gives the slab back; nobody else
ever sees one. A worker that finds all its slabs taken uses fresh memory, as it would without them.
"""

from dataclasses import replace

import torch

from ssl_affect.data.batch import ClipBatch

Slab = tuple[int, int]  # number of the worker, and of its slab


class Slabs:
    """The slabs of all workers of a stream; made before the workers start, in which copies of it then live.

    Args:
        num_workers: Workers.
        per_worker: Slabs of each: as many as the batches that it may have made ahead, and one for the batch that is copied.
    """

    def __init__(self, num_workers: int, per_worker: int) -> None:
        # Only its worker sets a flag and only the process that trains clears it, so they need no lock.
        self._taken = torch.zeros(num_workers, per_worker, dtype=torch.uint8).share_memory_()
        self._memory: dict[Slab, torch.UntypedStorage] = {}

    def take(self, worker: int, num_bytes: int) -> tuple[Slab | None, torch.UntypedStorage]:
        """Memory for a batch, in a worker: one of its slabs, or fresh memory (None) when all are taken."""
        free = (self._taken[worker] == 0).nonzero()
        if not len(free):
            return None, fresh_shared(num_bytes)
        slab = worker, int(free[0])
        self._taken[slab] = 1
        if slab not in self._memory or self._memory[slab].nbytes() < num_bytes:
            self._memory[slab] = fresh_shared(num_bytes)
        return slab, self._memory[slab]

    def holds(self, slab: Slab, video: torch.Tensor) -> bool:
        """Whether these frames lie in a slab of this worker."""
        return video.untyped_storage().data_ptr() == self._memory[slab].data_ptr()

    def give_back(self, slab: Slab) -> None:
        """Says that nobody needs what is in a slab."""
        self._taken[slab] = 0

    def empty(self, batch: ClipBatch) -> ClipBatch:
        """The batch with frames of its own, in the process that trains; its slab is free again."""
        if batch.slab is None:
            return batch
        video = batch.video
        if video.is_shared():
            self._memory[batch.slab] = video.untyped_storage()  # kept, so that it need not be mapped again next time
            video = video.clone()
        self.give_back(batch.slab)
        return replace(batch, video=video, slab=None)


def fresh_shared(num_bytes: int) -> torch.UntypedStorage:
    """Shared memory that nobody used before."""
    return torch.UntypedStorage._new_shared(num_bytes)  # as torch's own collation makes it
