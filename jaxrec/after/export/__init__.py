"""A trained function as a program that runs without jaxrec: StableHLO for JAX, ONNX for other runtimes."""
