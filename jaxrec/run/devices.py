"""The devices of a run and how arrays lie on them: the state on every device, each batch shared out."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError


class Devices:
    """All devices as one axis ``data``."""

    def __init__(self) -> None:
        self.mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec("data"))

    def describe(self) -> list[str]:
        """One line per kind of device, such as ``8 x cpu``."""
        kinds = [f"{device.platform} {device.device_kind}".strip() for device in self.mesh.devices.flat]
        return [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]

    def check_batch(self, batch_size: int) -> None:
        """Raises UserError where a batch cannot be shared out evenly."""
        if batch_size < 1 or batch_size % self.mesh.size:
            raise UserError(
                f"batch size {batch_size} cannot be shared by {self.mesh.size} devices; "
                f"choose a multiple of {self.mesh.size} with --batch-size"
            )

    def round_up(self, batch_size: int) -> int:
        """The smallest size of at least ``batch_size`` that can be shared out evenly."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def share(self, batch: Any) -> Any:
        """Host arrays put on the devices, each device taking its part of the leading axis."""
        return jax.device_put(batch, self.sharded)

    def copy(self, tree: Any) -> Any:
        """Arrays put on every device."""
        return jax.device_put(tree, self.replicated)
