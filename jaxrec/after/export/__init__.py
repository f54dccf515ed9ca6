"""A traced function as an ONNX model."""
