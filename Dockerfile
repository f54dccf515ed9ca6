# An image that jaxrec is installed in. On a CPU:
#
#     docker build -t jaxrec .
#     docker run --rm -v "$PWD/runs:/work/runs" jaxrec train --model cnn
#
# On NVIDIA GPUs, with the NVIDIA Container Toolkit on the host; jax brings its own CUDA libraries:
#
#     docker build -t jaxrec:cuda --build-arg EXTRAS=cuda13 .
#     docker run --rm --gpus all -v "$PWD/runs:/work/runs" jaxrec:cuda train --model cnn
FROM python:3.12-slim

# Extras of jaxrec, separated by commas: cuda12, cuda13, tpu, prepare, tensorboard.
ARG EXTRAS=""

COPY . /src
RUN pip install --no-cache-dir "/src${EXTRAS:+[$EXTRAS]}" && rm -r /src

# A user without privileges, with a folder of its own for runs, data and caches.
RUN useradd --create-home --uid 1000 jaxrec && mkdir /work && chown jaxrec /work
USER jaxrec
WORKDIR /work
RUN mkdir runs

ENTRYPOINT ["jaxrec"]
CMD ["--help"]
