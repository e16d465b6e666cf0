"""The processes that train together, and what they say to each other.

Every process (a rank) owns a stretch of the examples, draws from it by itself and sums its clipped
gradients; rank 0 adds the sums up, adds the noise once and sends the result to all. Independent
draws at rate q on disjoint stretches are a Poisson sample of the whole, and a sum of sums over
disjoint examples changes by at most C with one of them: the guarantee is that of one process.

Sums travel in the dtype that they were accumulated in, float64 where the device has it: rounded to
float32 before the noise is added, one example more could change the total by more than C.
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

# A rank that died is noticed at once; this is how long one may embed views or evaluate alone.
_PATIENCE = timedelta(hours=6)


class LostRankError(DpmixError):
    """Another process of the run ended, so that this one can't go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; alone by default, where nothing is sent.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that adds the noise, evaluates, and writes the run."""
        return self.rank == 0

    def bounds(self, examples: int) -> tuple[int, int]:
        """First and last + 1 of this process's examples; they differ in number by one at most.

        Raises:
            DpmixError: fewer examples than processes.
        """
        if examples < self.size:
            raise DpmixError(
                f"there are {self.size} processes and fewer training examples; expected one "
                "example or more for each: give torchrun a smaller --nproc-per-node"
            )
        return examples * self.rank // self.size, examples * (self.rank + 1) // self.size

    def add_up(self, tensors: list[Tensor]) -> None:
        """Put the sum over all processes into rank 0's `tensors`; the others' are spoilt.

        Raises:
            LostRankError: another process ended.
        """
        if self.size > 1:
            with _flat(tensors) as flat, _talking():
                dist.reduce(flat, dst=0)

    def share(self, tensors: list[Tensor]) -> None:
        """Put rank 0's values into everyone's `tensors`.

        Raises:
            LostRankError: another process ended.
        """
        if self.size > 1:
            with _flat(tensors) as flat, _talking():
                dist.broadcast(flat, src=0)

    def broadcast_object(self, said: Any) -> Any:
        """What rank 0 gave, for small Python objects.

        Raises:
            LostRankError: another process ended.
        """
        if self.size == 1:
            return said
        box = [said]
        with _talking():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def refuse_unless_equal(self, name: str, value: Any) -> None:
        """Compare what has to be the same everywhere, by its text.

        Raises:
            DpmixError: it differs from process to process.
            LostRankError: another process ended.
        """
        said = self._gathered(str(value))
        for rank, other in enumerate(said):
            if other != said[0]:
                raise DpmixError(
                    f"rank {rank} has another {name} than rank 0; expected the same command and "
                    "the same files in the same order everywhere"
                )

    def _gathered(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        values = [value] * self.size
        with _talking():
            dist.all_gather_object(values, value)
        return values

    def refuse_to_diverge(self, tensors: Iterable[Tensor]) -> None:
        """Compare `tensors` between the processes, by their hash.

        Raises:
            DpmixError: they differ, which means that the processes train different models.
            LostRankError: another process ended.
        """
        if self.size == 1:
            return
        digest = sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests = self._gathered(digest.digest())
        if len(set(digests)) > 1:
            odd = next(rank for rank, other in enumerate(digests) if other != digests[0])
            raise DpmixError(
                f"the weights of rank {odd} differ from those of rank 0; expected equal ones after "
                "every step: use machines with the same device and versions, and go on with "
                "--resume"
            )


ALONE = Ranks()


def join() -> Ranks:
    """Join the processes that torchrun started; `ALONE` where it did not.

    Each process takes the GPU of its place on the machine, where there are GPUs. gloo carries what
    lies in memory, NCCL what lies on a GPU.

    Raises:
        DpmixError: fewer GPUs than processes on this machine, or no connection.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    backend = "gloo"
    if torch.cuda.is_available():
        place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= count:
            raise DpmixError(
                f"process {place} of this machine has no GPU of its own: there are {count}; give "
                f"torchrun --nproc-per-node {count}"
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    with _talking():
        dist.init_process_group(backend, timeout=_PATIENCE)
    # torchrun ends the others in this way once one has died: they end with a line that says so.
    signal.signal(signal.SIGTERM, _stop)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def first_to_speak() -> bool:
    """Whether no other process has printed the run's error; torchrun's own store counts them.

    For a process that ends now: torchrun's SIGTERM is not listened to any more.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    # It would cut the asking short, by an error that nothing above catches.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=10),
        )
        return bool(store.add(f"dpmix/spoke/{attempt}", 1) == 1)
    except (KeyError, RuntimeError):
        return os.environ.get("RANK", "0") == "0"


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _lost(error)


def _stop(*_: Any) -> NoReturn:
    _lost(None)


def _lost(error: Exception | None) -> NoReturn:
    raise LostRankError(
        "another process of this run ended, so all do; the run's last checkpoint is whole: go on "
        "with --resume FOLDER, under torchrun again or not"
    ) from error


@contextmanager
def _flat(tensors: list[Tensor]) -> Iterator[Tensor]:
    """One tensor with the numbers of all, which are of one dtype; written back afterwards."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    yield flat
    with torch.no_grad():
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
