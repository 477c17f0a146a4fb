"""How many operations a function asks for: its convolutions and matrix products.

Counted from the traced program, so that all lowerings of one convolution count alike
and nothing is compiled.  XLA's own count (``compiled.cost_analysis``) leaves out what
it hands to a library, and on a CPU that is most convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
from jax.extend import core


def count(function: Callable, *args: object) -> float:
    """Operations of one call: 2 for each multiplication with its addition.

    Element-wise work and transforms are left out, and a convolution counts the taps
    that fall on its padding.  A loop counts as often as it runs (a ``while`` once), of
    branches the most expensive one counts.

    Args:
      function: Pure, jitted or not.
      *args: Arrays or ``jax.ShapeDtypeStruct``; nothing is computed.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inside(equation.params)]
    if name == "cond":
        return max(inner, default=0.0)
    if name == "scan":
        return equation.params["length"] * sum(inner)
    return sum(inner)


def _inside(params: dict) -> Iterator[core.Jaxpr]:
    """Programs among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _of_product(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _of_convolution(equation) -> float:
    numbers = equation.params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps
