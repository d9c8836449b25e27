"""Makes narrow networks of random weights in the shapes of well-known ones, and what ONNX Runtime makes of pictures with them.

    python networks.py FOLDER

Each network has a folder with model.onnx and the file that says how pictures are prepared; features.json has the features of the
pictures in FOLDER/images. Pictures are prepared with Pillow and NumPy as the file says.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from PIL import Image

SIDE = 64
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Net:
    """An ONNX graph that grows node by node. Each method returns the name of its result."""

    def __init__(self, seed):
        self.nodes, self.constants, self.random, self.count = [], [], np.random.default_rng(seed), 0
        # Of batch normalisation.
        self.variance = (0.6, 1.4)

    def constant(self, value):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(self, *shape, fan):
        return self.constant((self.random.normal(0, (2 / fan) ** 0.5, shape)).astype(np.float32))

    def node(self, op, *inputs, **attributes):
        self.count += 1
        name = f"t{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{self.count}", **attributes))
        return name

    def conv(self, x, into, out, size, stride=1, groups=1, pad=None, bias=True):
        pad = size // 2 if pad is None else pad
        fan = into // groups * size * size
        inputs = [x, self.weights(out, into // groups, size, size, fan=fan)]
        if bias:
            inputs.append(self.constant(self.random.normal(0, 0.1, out).astype(np.float32)))
        return self.node("Conv", *inputs, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups)

    def norm(self, x, channels):
        """Batch normalisation, not folded into the convolution before it."""
        random = lambda low, high: self.constant(self.random.uniform(low, high, channels).astype(np.float32))  # noqa: E731
        return self.node("BatchNormalization", x, random(0.7, 1.3), random(-0.2, 0.2), random(-0.2, 0.2), random(*self.variance), epsilon=1e-5)

    def swish(self, x):
        return self.node("Mul", x, self.node("Sigmoid", x))

    def hard_swish(self, x):
        return self.node("HardSwish", x)

    def hard_swish_of_keras(self, x):
        """As Keras writes it: x * relu6(x + 3) / 6, with a product and with a quotient in turn."""
        self.written = not getattr(self, "written", False)
        clipped = self.node("Clip", self.node("Add", x, self.constant(np.float32(3))), self.constant(np.float32(0)), self.constant(np.float32(6)))
        sixth = ("Mul", np.float32(1 / 6)) if self.written else ("Div", np.float32(6))
        return self.node("Mul", x, self.node(sixth[0], clipped, self.constant(sixth[1])))

    def relu(self, x):
        return self.node("Relu", x)

    def gelu(self, x):
        scaled = self.node("Div", x, self.constant(np.float32(2**0.5)))
        sum_ = self.node("Add", self.node("Erf", scaled), self.constant(np.float32(1)))
        return self.node("Mul", self.node("Mul", x, sum_), self.constant(np.float32(0.5)))

    def squeeze(self, x, channels, inner, gate):
        """Squeeze and excitation."""
        mean = self.node("GlobalAveragePool", x)
        small = self.relu(self.conv(mean, channels, inner, 1)) if gate == "HardSigmoid" else self.swish(self.conv(mean, channels, inner, 1))
        large = self.conv(small, inner, channels, 1)
        share = self.node("HardSigmoid", large, alpha=1 / 6, beta=0.5) if gate == "HardSigmoid" else self.node("Sigmoid", large)
        return self.node("Mul", x, share)

    def layer_norm(self, x, width):
        """Over the last axis, as exporters write it."""
        mean = self.node("ReduceMean", x, axes=[-1], keepdims=1)
        centred = self.node("Sub", x, mean)
        variance = self.node("ReduceMean", self.node("Pow", centred, self.constant(np.float32(2))), axes=[-1], keepdims=1)
        deviation = self.node("Sqrt", self.node("Add", variance, self.constant(np.float32(1e-6))))
        scale = self.constant(self.random.uniform(0.7, 1.3, width).astype(np.float32))
        shift = self.constant(self.random.uniform(-0.2, 0.2, width).astype(np.float32))
        return self.node("Add", self.node("Mul", self.node("Div", centred, deviation), scale), shift)

    def linear(self, x, into, out):
        bias = self.constant(self.random.normal(0, 0.1, out).astype(np.float32))
        return self.node("Add", self.node("MatMul", x, self.weights(into, out, fan=2 * into)), bias)

    def mean(self, x):
        return self.node("Flatten", self.node("GlobalAveragePool", x))

    def save(self, file, features, columns):
        self.nodes[-1].output[0] = "features"
        assert self.nodes[-1].name and features
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
        graph = helper.make_graph(self.nodes, file.parent.name, [value("pixel_values", ["batch", 3, SIDE, SIDE])],
                                  [value("features", ["batch", *columns])], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        file.write_bytes(model.SerializeToString(deterministic=True))


def resnet18(net):
    x = net.relu(net.norm(net.conv("pixel_values", 3, 6, 7, 2, bias=False), 6))
    x, into = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 6
    for stage, width in enumerate([6, 8, 10, 12]):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            y = net.relu(net.norm(net.conv(x, into, width, 3, stride, bias=False), width))
            y = net.norm(net.conv(y, width, width, 3, bias=False), width)
            if stride == 2:
                x = net.norm(net.conv(x, into, width, 1, stride, bias=False), width)
            x, into = net.relu(net.node("Add", y, x)), width
    return net.mean(x), [into]


def inverted(net, x, into, expand, out, size, stride, activation, squeeze):
    """An inverted residual block."""
    y = activation(net.norm(net.conv(x, into, expand, 1, bias=False), expand)) if expand != into else x
    y = activation(net.norm(net.conv(y, expand, expand, size, stride, groups=expand, bias=False), expand))
    if squeeze:
        y = net.squeeze(y, expand, *squeeze)
    y = net.norm(net.conv(y, expand, out, 1, bias=False), out)
    return net.node("Add", y, x) if stride == 1 and into == out else y


def efficientnet_b0(net):
    # Gates halve what passes them; without this, all pictures would be alike in the end.
    net.variance = (0.5, 1.1)
    x, into = net.swish(net.norm(net.conv("pixel_values", 3, 8, 3, 2, bias=False), 8)), 8
    plan = [(1, 4, 1, 1, 3), (3, 6, 2, 2, 3), (3, 8, 2, 2, 5), (3, 8, 3, 2, 3), (3, 10, 3, 1, 5), (3, 12, 4, 2, 5), (3, 14, 1, 1, 3)]
    for ratio, out, repeats, stride, size in plan:
        for block in range(repeats):
            x = inverted(net, x, into, into * ratio, out, size, stride if block == 0 else 1, net.swish, (2, "Sigmoid"))
            into = out
    return net.mean(net.swish(net.norm(net.conv(x, into, 24, 1, bias=False), 24))), [24]


def mobilenet_v3(net, image="pixel_values"):
    x, into = net.hard_swish(net.norm(net.conv(image, 3, 6, 3, 2, bias=False), 6)), 6
    plan = [(3, 6, 6, True, net.relu, 2), (3, 18, 8, False, net.relu, 2), (3, 20, 8, False, net.relu, 1), (5, 24, 10, True, net.hard_swish, 2),
            (5, 40, 10, True, net.hard_swish, 1), (5, 30, 12, True, net.hard_swish, 1), (5, 40, 14, True, net.hard_swish, 2)]
    for size, expand, out, squeeze, activation, stride in plan:
        x, into = inverted(net, x, into, expand, out, size, stride, activation, (4, "HardSigmoid") if squeeze else None), out
    x = net.hard_swish(net.norm(net.conv(x, into, 32, 1, bias=False), 32))
    return net.hard_swish(net.linear(net.mean(x), 32, 40)), [40]


def mobilenet_v3_keras(net):
    """Its activation is written with sums, products and quotients, and it prepares pictures by itself."""
    net.hard_swish = net.hard_swish_of_keras
    per_channel = lambda values: net.constant(np.array(values, np.float32).reshape(1, 3, 1, 1))  # noqa: E731
    scaled = net.node("Sub", net.node("Mul", "pixel_values", net.constant(np.float32(1 / 127.5))), net.constant(np.float32(1)))
    return mobilenet_v3(net, net.node("Div", net.node("Sub", scaled, per_channel([0.1, -0.1, 0.05])), per_channel([0.9, 1, 1.1])))


def squeezenet(net):
    """Fire modules join two maps; the sizes of its maxima are rounded up, as in torchvision."""
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    x, into = net.node("MaxPool", net.relu(net.conv("pixel_values", 3, 12, 3, 2, pad=0)), **pool), 12
    for at, (small, large) in enumerate([(4, 10), (4, 10), (6, 12), (6, 12), (8, 14), (8, 16)]):
        if at in (2, 4):
            x = net.node("MaxPool", x, **pool)
        y = net.relu(net.conv(x, into, small, 1))
        x, into = net.node("Concat", net.relu(net.conv(y, small, large, 1)), net.relu(net.conv(y, small, large, 3)), axis=1), 2 * large
    return net.mean(net.relu(net.conv(net.node("Dropout", x), into, 36, 1))), [36]


def densenet(net):
    """Normalisation before each convolution, joins of more and more maps, and means of 2 x 2 pixels."""
    x, into = net.relu(net.norm(net.conv("pixel_values", 3, 8, 7, 2, bias=False), 8)), 8
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block, layers in enumerate([3, 3]):
        maps = [x]
        for _ in range(layers):
            y = net.node("Concat", *maps, axis=1) if len(maps) > 1 else x
            y = net.conv(net.relu(net.norm(y, into)), into, 12, 1, bias=False)
            maps.append(net.conv(net.relu(net.norm(y, 12)), 12, 5, 3, bias=False))
            into += 5
        x = net.relu(net.norm(net.node("Concat", *maps, axis=1), into))
        if block == 0:
            x, into = net.conv(x, into, into // 2, 1, bias=False), into // 2
            x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.mean(x), [into]


def vit_tiny(net, width=24, heads=3, layers=4, patch=16):
    tokens = (SIDE // patch) ** 2
    x = net.conv("pixel_values", 3, width, patch, patch, pad=0)
    x = net.node("Transpose", net.node("Reshape", x, net.constant(np.array([-1, width, tokens]))), perm=[0, 2, 1])
    first = net.constant(net.random.normal(0, 1, (1, 1, width)).astype(np.float32))
    x = net.node("Add", net.node("Concat", first, x, axis=1), net.constant(net.random.normal(0, 0.3, (1, tokens + 1, width)).astype(np.float32)))
    split, join = (net.constant(np.array(shape)) for shape in ([-1, tokens + 1, heads, width // heads], [-1, tokens + 1, width]))
    for _ in range(layers):
        y = net.layer_norm(x, width)
        query, key, value = (net.node("Reshape", net.linear(y, width, width), split) for _ in range(3))
        scores = net.node("MatMul", net.node("Transpose", query, perm=[0, 2, 1, 3]), net.node("Transpose", key, perm=[0, 2, 3, 1]))
        share = net.node("Softmax", net.node("Div", scores, net.constant(np.float32((width // heads) ** 0.5))), axis=-1)
        mixed = net.node("MatMul", share, net.node("Transpose", value, perm=[0, 2, 1, 3]))
        mixed = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), join)
        x = net.node("Add", x, net.linear(mixed, width, width))
        y = net.linear(net.gelu(net.linear(net.layer_norm(x, width), width, 2 * width)), 2 * width, width)
        x = net.node("Add", x, y)
    return net.layer_norm(x, width), [tokens + 1, width]


def convnext(net):
    last, first = [0, 2, 3, 1], [0, 3, 1, 2]
    x, into = net.conv("pixel_values", 3, 6, 4, 4, pad=0), 6
    x = net.node("Transpose", net.layer_norm(net.node("Transpose", x, perm=last), into), perm=first)
    for stage, (width, blocks) in enumerate([(6, 1), (10, 1), (14, 3), (20, 1)]):
        if stage > 0:
            x = net.node("Transpose", net.layer_norm(net.node("Transpose", x, perm=last), into), perm=first)
            x, into = net.conv(x, into, width, 2, 2, pad=0), width
        for _ in range(blocks):
            y = net.layer_norm(net.node("Transpose", net.conv(x, width, width, 7, groups=width), perm=last), width)
            y = net.linear(net.gelu(net.linear(y, width, 4 * width)), 4 * width, width)
            y = net.node("Mul", y, net.constant(net.random.uniform(0.2, 1, width).astype(np.float32)))
            x = net.node("Add", x, net.node("Transpose", y, perm=first))
    return net.layer_norm(net.mean(x), into), [into]


def hugging_face(mean, std, resample, crop=True, edge=72):
    size = {"shortest_edge": edge} if crop else {"height": SIDE, "width": SIDE}
    cropped = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}} if crop else {"do_center_crop": False}
    return "preprocessor_config.json", {"do_resize": True, "size": size, "resample": resample, **cropped, "do_rescale": True,
                                        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": mean, "image_std": std}


def unchanged():
    """Samples from 0 to 255."""
    file, config = hugging_face([0] * 3, [1] * 3, 2, crop=False)
    return file, config | {"do_rescale": False, "rescale_factor": 1, "do_normalize": False}


def timm(mean, std, crop, interpolation):
    return "config.json", {"pretrained_cfg": {"input_size": [3, SIDE, SIDE], "interpolation": interpolation, "crop_pct": crop,
                                              "crop_mode": "center", "mean": mean, "std": std}}


NETWORKS = {
    "resnet18": (resnet18, hugging_face(*IMAGENET, 2)),
    "efficientnet-b0": (efficientnet_b0, timm(*IMAGENET, 0.875, "bicubic")),
    "mobilenet-v3": (mobilenet_v3, timm(*IMAGENET, 0.8, "bilinear")),
    "vit-tiny": (vit_tiny, hugging_face([0.5] * 3, [0.5] * 3, 2, crop=False)),
    "convnext": (convnext, hugging_face(*IMAGENET, 3)),
    "mobilenet-v3-keras": (mobilenet_v3_keras, unchanged()),
    "squeezenet": (squeezenet, hugging_face(*IMAGENET, 2)),
    "densenet": (densenet, timm(*IMAGENET, 0.875, "bicubic")),
}


def prepared(picture, config):
    """[1, 3, SIDE, SIDE] of a picture, as its file says."""
    given = config.get("pretrained_cfg")
    filters = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if given:
        edge, crop, resample = int(np.floor(SIDE / given["crop_pct"])), True, filters[given["interpolation"]]
        scale, mean, std = 1 / 255, given["mean"], given["std"]
    else:
        edge, crop, resample = config["size"].get("shortest_edge"), config["do_center_crop"], filters[config["resample"]]
        scale, mean, std = config["rescale_factor"], config["image_mean"], config["image_std"]
    width, height = picture.size
    if crop:
        size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
        picture = picture.resize(size, resample)
        left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
        picture = picture.crop((left, top, left + SIDE, top + SIDE))
    else:
        picture = picture.resize((SIDE, SIDE), resample)
    pixels = (np.asarray(picture).astype(np.float64) * scale - mean) / std
    return pixels.transpose(2, 0, 1)[None].astype(np.float32)


def pictures(folder):
    """Blurred noise and edges, wider than high or square: Pillow 13 resizes the columns of higher ones first."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(20)
    for number, size in enumerate([(100, 100), (96, 70), (64, 64), (180, 120)]):
        noise = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(noise).copy()
        pixels[10:30, 12:40] = random.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")


# The same networks in float16 and in integers (QuantizeLinear and DequantizeLinear).
OTHER_TYPES = {"mobilenet-v3": ["-f16", "-qdq"], "vit-tiny": ["-qdq"]}


def half(source, target):
    """The same network in float16, from its input to its output."""
    model = onnx.load(source)
    for values in [model.graph.input, model.graph.output]:
        for value in values:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for constant in model.graph.initializer:
        if constant.data_type == TensorProto.FLOAT:
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), constant.name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


class Calibration(CalibrationDataReader):
    def __init__(self, tensors):
        self.tensors = iter(tensors)

    def get_next(self):
        return next(({"pixel_values": tensor} for tensor in self.tensors), None)


def write_features(folder, images, config):
    """What ONNX Runtime makes of the pictures."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    kind = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    tensors = [prepared(Image.open(image).convert("RGB"), config).astype(kind) for image in images]
    answers = [session.run(None, {"pixel_values": tensor})[0][0] for tensor in tensors]
    # Of tokens, their mean, in double precision.
    rows = [row if row.ndim == 1 else row.astype(np.float64).mean(axis=0) for row in answers]
    features = {image.name: [float(x) for x in row] for image, row in zip(images, rows)}
    (folder / "features.json").write_text(json.dumps(features, indent=0) + "\n")
    norms = [float(np.linalg.norm(row)) for row in rows]
    print(f"{folder.name}: {(folder / 'model.onnx').stat().st_size:,} bytes, {len(rows[0])} features, norms {min(norms):.2f} to {max(norms):.2f}")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    pictures(out / "images")
    images = sorted((out / "images").glob("*.png"))
    for seed, (name, (build, (file, config))) in enumerate(NETWORKS.items()):
        of_kind = {kind: out / f"{name}{kind}" for kind in ["", *OTHER_TYPES.get(name, [])]}
        for folder in of_kind.values():
            folder.mkdir(exist_ok=True)
            (folder / file).write_text(json.dumps(config, indent=1) + "\n")
        net, source = Net(seed), out / name / "model.onnx"
        net.save(source, *build(net))
        if "-f16" in of_kind:
            half(source, of_kind["-f16"] / "model.onnx")
        if "-qdq" in of_kind:
            tensors = [prepared(Image.open(image).convert("RGB"), config) for image in images]
            quantize_static(source, of_kind["-qdq"] / "model.onnx", Calibration(tensors), quant_format=QuantFormat.QDQ)
        for folder in of_kind.values():
            write_features(folder, images, config)


if __name__ == "__main__":
    main()
