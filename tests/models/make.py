"""Regenerates the small ONNX models of the tests: python make.py FOLDER"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(sys.argv[1])


def save(name, nodes, inputs, outputs, constants=()):
    value = lambda pair: helper.make_tensor_value_info(pair[0], TensorProto.FLOAT, pair[1])  # noqa: E731
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants]
    graph = helper.make_graph(nodes, name, [value(i) for i in inputs], [value(o) for o in outputs], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def weights(*shape, scale=0.4):
    return np.random.default_rng(sum(shape)).normal(0, scale, shape).astype(np.float32)


def network(columns=24, first="input", channels=3):
    """Two convolutions with ReLU6 and a global average pool."""
    constants = [("w1", weights(8, channels, 4, 4)), ("b1", weights(8)), ("w2", weights(columns, 8, 3, 3)),
                 ("b2", weights(columns)), ("zero", np.float32(0)), ("six", np.float32(6))]
    nodes = [
        helper.make_node("Conv", [first, "w1", "b1"], ["c1"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["features"]),
    ]
    return nodes, constants


def main():
    nodes, constants = network()
    image, vector = ("input", ["N", 3, 32, 32]), ("features", ["N", 24])
    save("tiny", nodes, [image], [vector], constants)

    turned = [helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2])]
    inner, inner_constants = network(first="turned")
    save("nhwc", turned + inner, [("input", [1, 32, 48, 3])], [("features", [1, 24])], inner_constants)

    # log(1 + mean of x), which is minus infinity for a black image.
    log = [helper.make_node("GlobalAveragePool", ["input"], ["mean"]), helper.make_node("Add", ["mean", "one"], ["sum"]),
           helper.make_node("Log", ["sum"], ["log"]), helper.make_node("Flatten", ["log"], ["features"])]
    save("log", log, [image], [("features", ["N", 3])], [("one", np.float32(1))])

    large = nodes[:-1] + [helper.make_node("Mul", ["pool", "hundred"], ["m"]), helper.make_node("Flatten", ["m"], ["features"])]
    save("large", large, [image], [vector], constants + [("hundred", np.float32(100))])

    save("two-inputs", [helper.make_node("Add", ["input", "other"], ["sum"]), *network(first="sum")[0]],
         [image, ("other", ["N", 3, 32, 32])], [vector], constants)
    save("two-outputs", nodes, [image], [vector, ("pool", ["N", 24, 1, 1])], constants)
    save("map", nodes[:4], [image], [("r2", ["N", 24, 3, 3])], constants)
    save("any-size", nodes, [("input", ["N", 3, "H", "W"])], [vector], constants)
    grey, grey_constants = network(channels=1)
    save("grey", grey, [("input", ["N", 1, 32, 32])], [vector], grey_constants)
    wide = [helper.make_node("GlobalAveragePool", ["input"], ["pool"]), helper.make_node("Flatten", ["pool"], ["flat"]),
            helper.make_node("MatMul", ["flat", "m"], ["features"])]
    # What goes into the network: the means of 8 x 8 patches of a channel, a vector, tokens, and a map of any size.
    pool = helper.make_node("AveragePool", ["input"], ["pool"], kernel_shape=[8, 8], strides=[8, 8])
    save("patches", [pool, helper.make_node("Flatten", ["pool"], ["features"])], [image], [("features", ["N", 48])])
    tokens = [pool, helper.make_node("Reshape", ["pool", "shape"], ["flat"]),
              helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]), helper.make_node("Flatten", ["pool"], ["vector"])]
    save("tokens", tokens, [image], [("tokens", [1, 16, 3]), ("vector", ["N", 48])], [("shape", np.array([1, 3, 16]))])
    save("patches-any", [pool], [("input", ["N", 3, "H", "W"])], [("pool", ["N", 3, "h", "w"])])
    save("wide", wide, [image], [("features", ["N", 4097])], [("m", weights(3, 4097))])


if __name__ == "__main__":
    main()
