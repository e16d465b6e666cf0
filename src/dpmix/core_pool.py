"""One example a core: several small passes at once instead of one that is spread over all cores.

The views of one example are too few to keep many cores busy in one pass; measured on two cores,
MobileNetV2 embeds 36 views 1.6 times as fast with one example on each. Off the CPU one pass at a
time fills the device.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Map = Callable[..., Iterator[Any]]
"""As the built-in `map`."""


@contextmanager
def one_example_a_core(device: torch.device) -> Iterator[Map]:
    """Yield a `map` that keeps the order, and runs calls at once on a CPU with several threads."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return
    # torch counts threads by the thread that asks.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def ordered(call: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        return pool.map(call, *arguments)

    try:
        yield ordered
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
