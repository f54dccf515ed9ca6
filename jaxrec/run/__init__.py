"""The world outside the step: devices, run folders, checkpoints, logs, pictures, and the loop that ties them."""
