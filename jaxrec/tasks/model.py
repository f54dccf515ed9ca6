"""Models of one's own as players: Linen modules, and pairs of an init and an apply function."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxrec.errors import UserError
from jaxrec.settings import Task


@dataclass(frozen=True)
class Functions:
    """``init(key, *inputs) -> params`` and ``apply(params, *inputs) -> outputs``, called as a Linen module is."""

    init_params: Callable[..., Any]
    outputs: Callable[..., Any]

    def init(self, rngs: dict[str, Any], *inputs: Any, train: bool = False) -> dict[str, Any]:
        """The variables at the start."""
        return {"params": self.init_params(rngs["params"], *inputs)}

    def apply(self, variables: Any, *inputs: Any, train: bool = False, mutable: Any = None, rngs: Any = None) -> Any:
        """The outputs; with ``mutable``, as a Linen module, beside the changed collections, of which there are none."""
        outputs = self.outputs(variables["params"], *inputs)
        return outputs if mutable is None else (outputs, {})


@dataclass(frozen=True)
class Untold:
    """A Linen module whose call takes no ``train``."""

    module: nn.Module

    def init(self, rngs: dict[str, Any], *inputs: Any, train: bool = False) -> Any:
        """The variables at the start."""
        return self.module.init(rngs, *inputs)

    def apply(self, variables: Any, *inputs: Any, train: bool = False, mutable: Any = None, rngs: Any = None) -> Any:
        """As the module's own."""
        if mutable is None:
            return self.module.apply(variables, *inputs, rngs=rngs)
        return self.module.apply(variables, *inputs, mutable=mutable, rngs=rngs)


def as_model(model: Any) -> Any:
    """A model that ``init`` was given, as the systems call it.

    Args:
        model: a Linen module, with or without ``train`` among its arguments; or a pair ``(init, apply)`` with
            ``init(key, images) -> params`` and ``apply(params, images) -> outputs``.

    Raises:
        UserError: it is neither.
    """
    if isinstance(model, nn.Module):
        takes_train = "train" in inspect.signature(type(model).__call__).parameters
        return model if takes_train or hasattr(model, "encode") else Untold(model)
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return Functions(*model)
    if hasattr(model, "init") and hasattr(model, "apply"):
        return model
    raise UserError(f"the model is a {type(model).__name__}; expected a Linen module or a pair (init, apply)")


def compute_dtype(config: Task) -> Any:
    """The dtype of the forward and backward pass."""
    return jnp.dtype({"f32": jnp.float32, "bf16": jnp.bfloat16}[config.precision])


def for_replicas(model: Any, axis_name: str | None) -> Any:
    """The model with batch statistics taken over all replicas of ``axis_name``, if it has such statistics."""
    if axis_name and isinstance(model, nn.Module) and hasattr(model, "axis_name"):
        return model.clone(axis_name=axis_name)
    return model


def of_two_players(optimizer: Any) -> tuple[Any, Any]:
    """The transformation of each of two players, from one for both or a pair; one is a named tuple itself."""
    if isinstance(optimizer, tuple) and not hasattr(optimizer, "update"):
        first, second = optimizer
        return first, second
    return optimizer, optimizer
