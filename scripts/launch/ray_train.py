"""Trains on the workers of a Ray cluster by Ray Train's JaxTrainer.

    pip install 'jaxrec[ray]'
    python scripts/launch/ray_train.py --model resnet18 --dataset cifar10 --runs /shared/runs --name first

What to change: WORKERS and RESOURCES, to what the cluster has; for TPUs also PLATFORM, and in ScalingConfig
``topology`` and ``accelerator_type``. --runs has to be a folder that every worker sees. Ray joins the workers before
the training begins, and jaxrec finds them joined.

Tried with two workers on one machine's CPU (PLATFORM = "cpu", RESOURCES = {"CPU": 1}); not tried on GPUs or TPUs.
"""

import sys
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.v2.jax import JaxConfig, JaxTrainer

WORKERS = 2
PLATFORM = "cuda"
RESOURCES = {"GPU": 1}


def train(settings: dict[str, Any]) -> None:
    """One worker's part."""
    from jaxrec.cli.train import main

    if code := main(settings["arguments"]):
        raise SystemExit(code)


if __name__ == "__main__":
    tpu = PLATFORM == "tpu"
    JaxTrainer(
        train,
        train_loop_config={"arguments": sys.argv[1:]},
        # Ray joins its workers for these two; what they compute on, PLATFORM says.
        jax_config=JaxConfig(use_tpu=tpu, use_gpu=not tpu),
        scaling_config=ScalingConfig(
            num_workers=WORKERS, use_tpu=tpu, use_gpu="GPU" in RESOURCES, resources_per_worker=RESOURCES
        ),
        run_config=RunConfig(worker_runtime_env={"env_vars": {"JAX_PLATFORMS": PLATFORM}}),
    ).fit()
