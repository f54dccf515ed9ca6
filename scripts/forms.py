"""Each layer form against XLA's plain operation, and models in parts of the batch against the whole: which is faster.

Forwards and in each gradient, on a CPU.

python scripts/forms.py --write benchmarks/forms.md
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from benchmark import conditions, processor, table, write

import jaxrec
from jaxrec.models import layers
from jaxrec.models.cpu import parts
from jaxrec.settings import Classifier
from jaxrec.tasks.classifier import build as build_classifier

ROUNDS = 7
BURST = 0.05
"""Seconds that one of both is called at a time."""

CONVOLUTIONS = [
    # Transposed or not; batch, side, channels in and out, size of the kernel, strides.
    (False, 32, 32, 3, 32, 3, 1),
    (False, 128, 28, 1, 32, 3, 1),
    (False, 64, 32, 3, 64, 4, 2),
    (False, 32, 16, 16, 16, 3, 1),
    (False, 32, 16, 32, 64, 3, 1),
    (False, 128, 16, 32, 64, 3, 1),
    (False, 32, 32, 64, 64, 3, 1),
    (False, 32, 16, 128, 128, 3, 1),
    (False, 32, 8, 256, 256, 3, 1),
    (False, 32, 4, 512, 512, 3, 1),
    (False, 64, 16, 64, 128, 4, 2),
    (False, 32, 32, 64, 128, 3, 2),
    (False, 32, 32, 64, 128, 1, 2),
    (True, 64, 8, 128, 64, 4, 2),
    (True, 64, 16, 64, 3, 4, 2),
    (True, 128, 14, 32, 1, 3, 2),
]
PRODUCTS = [
    # Batch, in and out, and the numbers.
    (1024, 256, 128, jnp.float32),
    (1024, 256, 128, jnp.bfloat16),
    (1024, 128, 384, jnp.bfloat16),
]
POOLS = [(32, 32, 32), (128, 16, 64)]
MODELS: list[tuple[Any, int]] = [("cnn", 32), ("cnn", 128), ("vit", 64)]


@contextmanager
def whole() -> Iterator[None]:
    """Models traced inside compute the whole batch at once."""
    before, parts.PART_BYTES = parts.PART_BYTES, 2**62
    try:
        yield
    finally:
        parts.PART_BYTES = before


def passes(function: Callable[..., jax.Array], *arrays: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The function and its gradient by each of its arguments, compiled, with what each of them is called with."""
    cotangent = jnp.ones_like(function(*arrays))

    def gradient(index: int) -> Callable[..., Any]:
        def one(cotangent: jax.Array, *arrays: Any) -> Any:
            def of(array: Any) -> jax.Array:
                return function(*arrays[:index], array, *arrays[index + 1 :])

            return jax.vjp(of, arrays[index])[1](cotangent)[0]

        return one

    made = [(jax.jit(function), arrays)]
    return made + [(jax.jit(gradient(index)), (cotangent, *arrays)) for index in range(len(arrays))]


def seconds(call: tuple[Any, tuple[jax.Array, ...]]) -> float:
    """Seconds per call, over a burst."""
    function, arrays = call
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < BURST:
        jax.block_until_ready(function(*arrays))
        count += 1
    return (time.perf_counter() - began) / count


def against(ours: list[Any], plain: list[Any]) -> list[str]:
    """A cell for each pass: milliseconds of our form, and how many times longer the plain one takes."""
    cells = []
    for both in zip(ours, plain, strict=True):
        for call in both:
            seconds(call)  # Compiles.
        times = [[seconds(call) for call in both] for _ in range(ROUNDS)]
        ratio = statistics.median(b / a for a, b in times)
        cells.append(f"{1000 * statistics.median(a for a, _ in times):.2f} ms, {ratio:.2f}")
    return cells


def normal(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    """Numbers to compute with, the same ones for each shape."""
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


def convolutions() -> Iterator[list[str]]:
    """Rows of convolutions, in both dtypes."""
    for dtype, sizes in itertools.product((jnp.float32, jnp.bfloat16), CONVOLUTIONS):
        transposed, batch, side, inputs, outputs, size, strides = sizes
        layer = layers.conv_transpose if transposed else layers.conv
        x, kernel = normal(batch, side, side, inputs, dtype=dtype), normal(size, size, inputs, outputs, dtype=dtype)

        def ours(x: jax.Array, kernel: jax.Array, layer: Any = layer, strides: int = strides) -> jax.Array:
            return layer(x, kernel, strides)

        def plain(x: jax.Array, kernel: jax.Array, ours: Any = ours) -> jax.Array:
            with jaxrec.plain_forms():
                return ours(x, kernel)

        name = f"{'transposed ' * transposed}{size}x{size}" + f", strides {strides}" * (strides > 1)
        cells = against(passes(ours, x, kernel), passes(plain, x, kernel))
        yield [f"{name}, {jnp.dtype(dtype).name}", f"{batch}x{side}x{side}x{inputs} to {outputs}", *cells]


def products() -> Iterator[list[str]]:
    """Rows of matrix products."""
    for batch, inputs, outputs, dtype in PRODUCTS:
        x, kernel = normal(batch, inputs, dtype=dtype), normal(inputs, outputs, dtype=dtype)

        def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return layers.dense(nn.gelu(x), kernel)

        def plain(x: jax.Array, kernel: jax.Array, dense: Any = dense) -> jax.Array:
            with jaxrec.plain_forms():
                return dense(x, kernel)

        cells = against(passes(dense, x, kernel), passes(plain, x, kernel))
        yield [f"product after GELU, {jnp.dtype(dtype).name}", f"{batch}x{inputs} to {outputs}", *cells]


def pools() -> Iterator[list[str]]:
    """Rows of max pooling."""
    for batch, side, channels in POOLS:
        x = normal(batch, side, side, channels)
        cells = against(passes(lambda x: layers.max_pool(x, 2), x), passes(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x))
        yield ["max pooling 2x2", f"{batch}x{side}x{side}x{channels}", *cells, ""]


def models() -> Iterator[list[str]]:
    """Rows of models that process a batch in parts."""
    for name, batch in MODELS:
        model, x = build_classifier(Classifier(model=name, classes=10), (32, 32, 3)), normal(batch, 32, 32, 3)
        params = jax.jit(model.init)(jax.random.key(0), x)

        def by_parts(x: jax.Array, params: Any, model: Any = model) -> jax.Array:
            return model.apply(params, x)[0]

        def at_once(x: jax.Array, params: Any, by_parts: Any = by_parts) -> jax.Array:
            with whole():
                return by_parts(x, params)

        cells = against(passes(by_parts, x, params), passes(at_once, x, params))
        yield [f"{name} in parts", f"{batch}x32x32x3", *cells]


def measure() -> str:
    """The table."""
    rows = []
    for row in itertools.chain(convolutions(), products(), pools(), models()):
        print(row, flush=True)
        rows.append(row)
    return table(["", "", "value", "gradient by images", "gradient by kernel or parameters"], rows)


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table on this page")
    options = parser.parse_args()
    jaxrec.tune_cpu()
    versions = f"jaxrec {jaxrec.__version__}", f"jax {jax.__version__}"
    about = (
        "Milliseconds of our form, then the time of XLA's operation, or of the model on the whole batch, divided by "
        "it; about 1 where they are the same."
    )
    text = f"{conditions(versions, ROUNDS)}\n\n{about}\n\n{measure()}"
    print(f"## Layer forms\n\n{text}")
    if options.write:
        write(options.write, {f"Layer forms, {processor()}": text})


if __name__ == "__main__":
    main()
