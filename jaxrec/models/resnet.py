"""Residual networks (He et al. 2016), with torchvision's shapes: 18, 34 and 50 layers, small and large images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, activation, batch_norm, max_pool, scaled

# Blocks in each stage, and whether they are bottlenecks.
LAYOUTS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
    """Two 3x3 convolutions, or if ``bottleneck`` 1x1, 3x3 and 1x1 to four times the features, around a shortcut."""

    features: int
    strides: int
    bottleneck: bool
    activation: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,H,W,C] to [B,H/strides,W/strides,features (times 4)]."""
        act = activation(self.activation)

        def conv(name: str, x: jax.Array, features: int, size: int, strides: int = 1, **options: Any) -> jax.Array:
            layer = Conv(
                features,
                size,
                strides,
                padding=size // 2,
                use_bias=False,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=f"conv{name}",
            )
            return batch_norm(layer(x), train, self.axis_name, name=f"norm{name}", **options)

        # The last scale starts at 0, so that a block starts as its shortcut (Goyal et al. 2017).
        last: dict[str, Any] = {"scale_init": nn.initializers.zeros}
        outputs = 4 * self.features if self.bottleneck else self.features
        if self.bottleneck:
            y = act(conv("1", x, self.features, 1))
            y = act(conv("2", y, self.features, 3, self.strides))
            y = conv("3", y, outputs, 1, **last)
        else:
            y = act(conv("1", x, self.features, 3, self.strides))
            y = conv("2", y, outputs, 3, **last)
        if x.shape != y.shape:
            x = conv("_shortcut", x, outputs, 1, self.strides)
        return act(x + y)


class ResNet(nn.Module):
    """Stages of ``blocks``, each of half the side; ``stem`` small is one 3x3 convolution, large is 7x7 and pooling."""

    classes: int
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    stem: str = "small"
    width: float = 1.0
    activation: str = "relu"
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B,H,W,C] to logits [B,classes] and features [B,D], float32."""
        x = x.astype(self.dtype)
        features = scaled(64, self.width)
        size, strides = (7, 2) if self.stem == "large" else (3, 1)
        options = {"padding": size // 2, "use_bias": False, "kernel_init": he_normal, "dtype": self.dtype}
        x = Conv(features, size, strides, name="conv", **options)(x)
        x = activation(self.activation)(batch_norm(x, train, self.axis_name, name="norm"))
        if self.stem == "large":
            x = max_pool(x, 3, 2, padding=1)
        options = {"activation": self.activation, "axis_name": self.axis_name, "dtype": self.dtype}
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                strides = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = Block(features * 2**stage, strides, self.bottleneck, name=name, **options)(x, train)
        x = x.mean((1, 2))
        logits = Dense(self.classes, dtype=self.dtype, name="head")(
            nn.Dropout(self.dropout, deterministic=not train)(x)
        )
        return logits.astype(jnp.float32), x.astype(jnp.float32)
