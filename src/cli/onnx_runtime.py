# Runs a model in ONNX Runtime, on one processor: FILE INPUTS SHAPE OUTPUT POOLING. Prints JSON.
import json
import sys
import time

import numpy
import onnxruntime

file, inputs, shape, output, pooling = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
images = numpy.fromfile(inputs, "<f4").reshape(-1, *map(int, shape.split(",")))
if session.get_inputs()[0].type == "tensor(float16)":
    images = images.astype(numpy.float16)
features, times = [], []
for image in images:
    started = time.perf_counter()
    (answer,) = session.run([output] if output else None, {session.get_inputs()[0].name: image})
    times.append(1000 * (time.perf_counter() - started))
    answer = answer.astype(float)
    if answer.size > max(answer.shape):
        # [1, tokens, columns] or [1, columns, height, width]
        answer = answer[0, 0] if pooling == "cls" else answer.mean(axis=1) if answer.ndim == 3 else answer.mean(axis=(2, 3))
    features.append(answer.reshape(-1).tolist())
print(json.dumps({"version": onnxruntime.__version__, "milliseconds": sorted(times)[len(times) // 2], "features": features}))
