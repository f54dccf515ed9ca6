"""Work is cut by memory: what is done at once to large images is bounded, whatever was asked for."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.data import Feature, at_once
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.run.generated import generated
from jaxrec.run.trained import Trained
from jaxrec.settings import GAN, Autoencoder, Classifier, Train
from jaxrec.tasks import classifier
from jaxrec.tasks.system import system_of

LARGE = (1024, 1024, 3)
IMAGE = math.prod(LARGE)
NARROW = Classifier(model="resnet18", width=1 / 16, classes=3, mean=(0.5,) * 3, std=(0.2,) * 3)


def batch_of(count: int, shape: tuple[int, ...] = LARGE) -> dict[str, Any]:
    label = jax.ShapeDtypeStruct((count,), np.int32)
    return {"image": jax.ShapeDtypeStruct((count, *shape), np.uint8), "label": label}


def state_of(config: Any, batch: dict[str, Any]) -> Any:
    return jax.eval_shape(partial(system_of(config).init, config), jax.random.key(0), batch)


def test_images_at_once_hold_a_bounded_number_of_numbers():
    assert at_once(100, (28, 28, 1)) == 100
    assert at_once(100, (256, 256, 3)) == 21
    assert at_once(100, LARGE) == 1
    assert at_once(100, (8192, 8192, 3)) == 1


def test_one_large_image_is_predicted_in_the_memory_of_one():
    trained: Any = Trained.__new__(Trained)
    trained.config, trained.system, trained.state = Train(task=NARROW), system_of(NARROW), None
    trained.features = {"image": Feature("image", LARGE, "uint8")}
    sizes = []

    def predicted(state: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(images))
        return {"probabilities": np.zeros((len(images), 3))}

    trained.__dict__["_predict"] = predicted
    assert trained.predict(np.zeros((3, *LARGE), np.uint8))["probabilities"].shape == (3, 3)
    assert sizes == [1, 1, 1]
    with plain_forms():
        compiled = jax.jit(classifier.predict).lower(state_of(NARROW, batch_of(1)), batch_of(1)["image"]).compile()
    memory: Any = compiled.memory_analysis()
    # In float32 the image and the widest activation, which is the stem's.
    one = 4 * (IMAGE + 4 * 512 * 512)
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 2 * one


@pytest.mark.parametrize("config", [GAN(classes=1000), Autoencoder(model="vae", width=1, code=2)], ids=["gan", "vae"])
@pytest.mark.parametrize(("shape", "most"), [(LARGE, 4 * IMAGE), ((32, 32, 3), 2**22)], ids=["large", "small"])
def test_sheets_of_generated_images_are_bounded(config, shape, most):
    batch = batch_of(12, shape)
    drawn = jax.eval_shape(system_of(config).artifacts, state_of(config, batch), batch)
    assert {"samples", "interpolation"} <= drawn.keys()
    for name in ("samples", "interpolation"):
        assert math.prod(drawn[name]["images"].shape) <= most


def test_images_are_drawn_in_parts_and_go_on_where_the_last_part_ended():
    sizes = []

    def generate(state: Any, key: jax.Array, count: int, first: jax.Array) -> dict[str, jax.Array]:
        sizes.append(count)
        return {"image": jax.random.uniform(key, (count, 1)), "label": first + np.arange(count, dtype=np.int32)}

    system: Any = SimpleNamespace(generate=generate)
    for shape, size in (((512, 512, 3), 5), ((8, 8, 1), 12)):
        parts = list(generated(system, None, 12, 0, shape))  # type: ignore[arg-type]
        assert set(sizes) == {size}
        assert [label for part in parts for label in part["label"].tolist()] == list(range(12))
        assert len({value for part in parts for value in part["image"][:, 0].tolist()}) == 12
        sizes.clear()
