"""The way that `--compile` asks for: one example at a time, its passes fused by `torch.compile`.

What is compiled is the model's forward and backward over the views of one example, so that the
clipped sum is the same function of the examples, to rounding. Compiling takes up to a minute.
"""

import time

import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.models.preserved import preserved
from dpmix.privacy.clipping import Engine, Loss
from dpmix.privacy.trial import trial
from dpmix.privacy.way import Way


def compiled_way(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None,
) -> Way:
    """Compile on random images, and say after how many examples that will have paid.

    Args:
        engine: `auto` or `examplewise`.
        model: on its device, in its modes; it is left as it was, like the next four as in
            `fastest_way`.
        loss: as there.
        view_shape: as there.
        views: as there.
        view_chunk: as there.

    Raises:
        DpmixError: another engine, or a model or a machine that can't be compiled.
    """
    if engine not in ("auto", "examplewise"):
        raise DpmixError(
            f"compile was given with engine {engine}; expected auto or examplewise: leave out one"
        )
    way = Way("examplewise", view_chunk, compiled=True)
    with preserved(model):
        plain = trial(Way("examplewise", view_chunk), model, loss, view_shape, views)
        fused = trial(way, model, loss, view_shape, views)
        start = time.perf_counter()
        try:
            fused(2)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise DpmixError(
                f"this model can't be compiled here: {reason}; leave out compile, or install what "
                "torch.compile needs (a C++ compiler on a CPU, triton on a GPU)"
            ) from None
        spent = time.perf_counter() - start
        plain(1)
        slow, fast = (min(run(2) for _ in range(3)) for run in (plain, fused))
    gain = (
        f"worth it after {spent / (slow - fast):,.0f} examples"
        if fast < slow
        else "never worth it: leave out --compile"
    )
    times = f"an example takes {1e3 * fast:.3g} ms, without {1e3 * slow:.3g}"
    reason = f"compiled in {spent:.0f} s; {times}: {gain}"
    return Way("examplewise", view_chunk, compiled=True, reason=reason)
