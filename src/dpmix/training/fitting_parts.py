"""The parts of a trainer that must agree: plan, views, optimizer, model and processes."""

import inspect

from torch import nn
from torch.optim import Optimizer

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.distributed import Ranks
from dpmix.views.spec import ViewSpec


def refuse_unfit_parts(
    plan: PrivacyPlan,
    spec: ViewSpec,
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    ranks: Ranks,
) -> None:
    """Refuse parts of a trainer that do not fit together.

    Args:
        plan: its unit and sensitivity must be those of the views.
        spec: the views.
        optimizer: over `parameters`, taking one gradient a step.
        parameters: the model's trainable ones.
        ranks: with several processes, no method may join examples.
    """
    if plan.unit != spec.unit:
        raise DpmixError(
            f"the plan's unit of privacy is '{plan.unit}' and the views' is '{spec.unit}'; give "
            "PrivacyPlan.calibrate(unit='person') and ViewSpec(images_per_person=8), or neither"
        )
    if plan.sensitivity_multiplier != spec.sensitivity_multiplier:
        raise DpmixError(
            f"method {spec.method} has sensitivity {spec.sensitivity_multiplier}C but the plan was "
            f"calibrated for {plan.sensitivity_multiplier}C; give "
            "PrivacyPlan.calibrate(sensitivity_multiplier=spec.sensitivity_multiplier)"
        )
    if ranks.size > 1 and spec.examples_per_group > 1:
        # A shard's bounds move with N, so one more example could rematch every pair.
        raise DpmixError(
            f"method {spec.method} joins examples, which is only proven private in one process; "
            "train it without torchrun"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters}:
        raise DpmixError(
            "the optimizer holds other parameters than the model's trainable ones; build it over "
            "[p for p in model.parameters() if p.requires_grad]"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise DpmixError(
            f"optimizer {type(optimizer).__name__} evaluates the loss itself, several times a "
            "step, which no plan counts; use one that takes one gradient a step, such as "
            "torch.optim.SGD or Adam"
        )
