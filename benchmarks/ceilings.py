"""What this machine can do at all: matrix products, memory copies, JPEG decoding. Read the other figures against these."""

import io
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.material import draw
from benchmarks.measure import Report, run_alone, spread


def measure(quick: bool) -> list[Report]:
    """Best and median of several rounds each."""
    import simplejpeg
    import torch

    repeats = 5 if quick else 15
    size = 1024 if quick else 2048
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        left, right = torch.randn(size, size), torch.randn(size, size)
        rates = _rates(lambda a=left, b=right: a @ b, 2 * size**3 / 1e9, repeats)
        rows.append([f"float32 matrix product {size}, {threads} thread{'s' if threads > 1 else ''}", *rates, "GFLOP/s"])
    torch.set_num_threads(1)
    source = np.ones(2**28, np.uint8)
    target = np.empty_like(source)
    rows.append(["copy of 256 MiB", *_rates(lambda: np.copyto(target, source), len(source) / 2**30, repeats), "GiB/s"])
    Image.fromarray(draw(0, 0.2, 160, 160)[0]).save(buffer := io.BytesIO(), "JPEG", quality=90)
    picture, count = buffer.getvalue(), 200

    def decode() -> None:
        for _ in range(count):
            simplejpeg.decode_jpeg(picture, "RGB")

    rows.append(["JPEG decoding, 160 px, quality 90, one core", *_rates(decode, count, repeats), "pictures/s"])
    return [
        {
            "title": "Ceilings of the machine",
            "text": "Wall time; the best round says what the machine can do, the median what it did beside other programs.",
            "columns": ["", "best", "median", "unit"],
            "rows": rows,
        }
    ]


def _rates(work: Callable[[], object], amount: float, repeats: int) -> tuple[float, float]:
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return amount / min(seconds), amount / spread(seconds)[1]


if __name__ == "__main__":
    sys.exit(run_alone(measure))
