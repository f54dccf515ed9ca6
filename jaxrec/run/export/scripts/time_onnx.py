"""Times an ONNX file on one core: python time_onnx.py MODEL INPUTS.npz SECONDS; prints JSON. Needs no jaxrec.

One example at a time: the median and the 99th percentile in milliseconds, and the memory of the process in MiB.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

model, inputs, seconds = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
one = {name: values[:1] for name, values in np.load(inputs).items()}
names = [output.name for output in session.get_outputs()]
session.run(names, one)
times = []
end = time.perf_counter() + float(seconds)
while len(times) < 10 or time.perf_counter() < end:
    began = time.perf_counter()
    session.run(names, one)
    times.append(1000 * (time.perf_counter() - began))
# The peak that getrusage knows may be that of the process that started this one.
status = Path("/proc/self/status").read_text()
memory = int(status.partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"median": np.median(times), "p99": np.percentile(times, 99), "memory": memory, "runs": len(times)}))
