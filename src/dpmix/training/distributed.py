"""Processes that train one run together, under torchrun.

Every process (a rank) owns a part of the examples, samples it and sums its clipped gradients. Rank
0 adds the sums, adds the noise once and broadcasts the result. Independent draws at rate q on
disjoint parts are a Poisson sample of the whole, and one example changes a sum of sums over
disjoint examples by at most C. So the guarantee is that of one process.

Sums are sent in the dtype in which they were accumulated, float64 where the device has it: rounded
to float32 before the noise is added, one example more could change the total by more than C.
"""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from dpmix.errors import DpmixError

# A dead rank is noticed at once; this is how long one rank may embed views or evaluate alone.
_TIMEOUT = timedelta(hours=6)


class LostRankError(DpmixError):
    """Another process of the run ended, so this one can't continue."""

    def __init__(self) -> None:
        super().__init__(
            "another process of this run ended, so all of them stop; the last checkpoint is "
            "complete: continue with --resume FOLDER, with or without torchrun"
        )


@dataclass(frozen=True)
class Ranks:
    """Process `rank`, from 0, of the `size` processes of the run. A single one sends nothing.

    Every method that sends raises `LostRankError` where another process has ended.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which adds the noise, evaluates and writes the run."""
        return self.rank == 0

    def bounds(self, examples: int) -> tuple[int, int]:
        """Start and stop of this process's examples; the parts differ by at most one in size."""
        if examples < self.size:
            raise DpmixError(
                f"there are {self.size} processes and fewer training examples or persons; expected "
                "at least one for each process: give torchrun a smaller --nproc-per-node"
            )
        return examples * self.rank // self.size, examples * (self.rank + 1) // self.size

    def reduce(self, tensors: list[Tensor]) -> None:
        """Write the sum over all processes into rank 0's `tensors`; the others' are undefined."""
        if self.size > 1:
            with _flat(tensors) as flat, _lost_ranks_reported():
                dist.reduce(flat, dst=0)

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Write rank 0's values into the `tensors` of every process."""
        if self.size > 1:
            with _flat(tensors) as flat, _lost_ranks_reported():
                dist.broadcast(flat, src=0)

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's `value`, a small Python object, in every process."""
        if self.size == 1:
            return value
        box = [value]
        with _lost_ranks_reported():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def require_equal(self, name: str, value: Any) -> None:
        """Refuse processes that do not all have the same text of `value`; errors call it `name`."""
        if self.size == 1:
            return
        texts = [""] * self.size
        with _lost_ranks_reported():
            dist.all_gather_object(texts, str(value))
        for rank, text in enumerate(texts):
            if text != texts[0]:
                raise DpmixError(
                    f"rank {rank} does not have the {name} of rank 0; expected the same command, "
                    "the same files in the same order, and the same device and versions on every "
                    "process"
                )

    def require_equal_weights(self, tensors: Iterable[Tensor]) -> None:
        """Refuse processes that are training different models, by a hash of their weights."""
        digest = sha256()
        for tensor in tensors if self.size > 1 else ():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.require_equal("weights", digest.hexdigest())


ALONE = Ranks()


def start() -> Ranks:
    """Connect to the other processes that torchrun started; `ALONE` without torchrun.

    Each process takes the GPU of its local rank; fewer GPUs than processes are refused.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    backend = "gloo"
    if torch.cuda.is_available():
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise DpmixError(
                f"process {local} of this machine has no GPU: there are {count}; give torchrun "
                f"--nproc-per-node {count}"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    with _lost_ranks_reported():
        dist.init_process_group(backend, timeout=_TIMEOUT)
    # torchrun sends this signal to the other processes once one has died.
    signal.signal(signal.SIGTERM, _terminated)
    return Ranks(dist.get_rank(), dist.get_world_size())


def shutdown() -> None:
    """Disconnect from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_first_to_fail() -> bool:
    """Whether no other process has printed the run's error yet, by a counter in torchrun's store.

    From here on the process ignores torchrun's SIGTERM, which would interrupt the question.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]
        return bool(store.add(f"dpmix/failed/{attempt}", 1) == 1)
    except (KeyError, RuntimeError):
        return os.environ.get("RANK", "0") == "0"


@contextmanager
def _lost_ranks_reported() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRankError from error


def _terminated(*_: Any) -> NoReturn:
    raise LostRankError


@contextmanager
def _flat(tensors: list[Tensor]) -> Iterator[Tensor]:
    """One tensor with the numbers of all tensors, of one dtype; written back afterwards."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    yield flat
    with torch.no_grad():
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
