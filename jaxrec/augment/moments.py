"""Which of a clip's frames are shown, and in which order."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import stream
from jaxrec.errors import UserError
from jaxrec.settings import Augment


def change_moments(
    config: Augment, key: jax.Array, examples: Mapping[str, jax.Array], kinds: Mapping[str, str]
) -> dict[str, jax.Array]:
    """The examples with a random stretch of ``config.frames`` of each clip, half of them backwards if it is asked for.

    Clips [B, T, H, W, C] of an example get the same changes. Of a length int [B], frames from there on do not count: a
    stretch lies within the others, and these are played backwards. A clip that is shorter than the stretch stays whole.

    Raises UserError if there are no clips, and changes of clips are asked for.
    """
    clips = {name: values for name, values in examples.items() if kinds[name] == "clip"}
    if not (config.frames or config.reverse):
        return dict(examples)
    if not clips:
        option = "frames" if config.frames else "reverse"
        raise UserError(f"augment.{option} changes clips, and the examples have none; leave it out")
    batch, most = next(iter(clips.values())).shape[:2]
    lengths = {name: values for name, values in examples.items() if kinds[name] == "length"}
    length = next(iter(lengths.values()), jnp.full(batch, most, jnp.int32))
    count = min(config.frames or most, most)
    kept = jnp.minimum(length, count)
    place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (batch, count))
    if config.reverse:
        backwards = jax.random.bernoulli(stream(key, "reverse"), jnp.float32(0.5), (batch,))
        place = jnp.where(backwards[:, None], kept[:, None] - 1 - place, place)
    place = place + jax.random.randint(stream(key, "frames"), (batch,), 0, length - kept + 1, jnp.int32)[:, None]
    # What a short clip has not is not looked at: it is blank in the end.
    place = jnp.clip(place, 0, most - 1)[:, :, None, None, None]
    shown = {name: jnp.take_along_axis(values, place, axis=1) for name, values in clips.items()}
    return {**examples, **shown, **dict.fromkeys(lengths, kept)}


def only_there(clips: jax.Array, examples: Mapping[str, jax.Array], kinds: Mapping[str, str]) -> jax.Array:
    """Clips [B, T, H, W, C] with zeros in the frames that their examples' length says are not there."""
    for name, length in examples.items():
        if kinds[name] == "length":
            there = jnp.arange(clips.shape[1], dtype=jnp.int32) < length[:, None].astype(jnp.int32)
            return jnp.where(there[:, :, None, None, None], clips, jnp.zeros((), clips.dtype))
    return clips
