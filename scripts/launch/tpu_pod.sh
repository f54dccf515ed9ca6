#!/usr/bin/env bash
# Trains on every host of a TPU slice. Not tried: there was no TPU at hand.
#
#     NAME=my-slice ZONE=us-central2-b RUNS=gs-mounted/runs bash scripts/launch/tpu_pod.sh --model resnet18 --dataset cifar10
#
# What to change: NAME and ZONE, those of `gcloud compute tpus tpu-vm create`; RUNS, a folder that every host sees (a mounted
# bucket or Filestore). jaxrec has to be installed on the hosts: pip install 'jaxrec[tpu]', or -e '.[tpu]' in a clone.
set -euo pipefail
: "${NAME:?the name of the TPU slice}" "${ZONE:?its zone}" "${RUNS:?a folder that every host sees}"
printf -v runs '%q' "$RUNS"
options=
if (($#)); then printf -v options ' %q' "$@"; fi
gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker all \
  --command "python3 -m jaxrec.train --coordinator auto --runs $runs$options"
