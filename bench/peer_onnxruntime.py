"""The fastest pipeline that Pomona is compared with: two Python processes with Pillow and ONNX Runtime, NumPy's eigh, PyArrow.

usage: peer_onnxruntime.py IMAGES OUTPUT COMPONENTS MODEL.onnx [draft]

With `draft`, Pillow decodes JPEGs at a fraction of their size.

It uses the same model file, preprocessing and PCA as Pomona and writes features and scores as Parquet files.
"""

import multiprocessing
import os
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 8


def featurize(job):
    import onnxruntime
    from PIL import Image

    paths, model, draft = job

    def picture(path):
        image = Image.open(path)
        if draft:
            image.draft("RGB", (2 * 224, 2 * 224))
        return image.convert("RGB").resize((224, 224))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    features = np.empty((len(paths), 1280), np.float32)
    for start in range(0, len(paths), BATCH):
        pictures = [picture(path) for path in paths[start : start + BATCH]]
        x = np.stack([np.asarray(p, np.float32) for p in pictures]) / 127.5 - 1
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        features[start : start + BATCH] = session.run(None, {"input": x})[0]
    return features


def main():
    images, output, components, model = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    output.mkdir(parents=True)
    paths = sorted(str(p) for p in images.rglob("*.jpg"))
    processes = os.cpu_count()
    shares = [list(part) for part in np.array_split(paths, processes)]
    with multiprocessing.Pool(processes) as pool:
        x = np.vstack(pool.map(featurize, [(share, model, sys.argv[5:] == ["draft"]) for share in shares]))
    centred = x - x.mean(0, dtype=np.float64)
    covariance = centred.T @ centred / (len(x) - 1)
    deviation = np.sqrt(np.diag(covariance))
    deviation[deviation == 0] = 1
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    scores = (centred / deviation) @ vectors[:, ::-1][:, :components]
    labels = [pathlib.Path(p).parent.name for p in paths]
    lists = lambda a: pa.FixedSizeListArray.from_arrays(a.ravel(), a.shape[1]).cast(pa.list_(pa.float32()))  # noqa: E731
    pq.write_table(pa.table({"path": paths, "label": labels, "features": lists(x)}), output / "features.parquet")
    scores = np.ascontiguousarray(scores, np.float32)
    pq.write_table(pa.table({"path": paths, "label": labels, "pca_features": lists(scores)}), output / "pca.parquet")
    print(f"cumulative ratio {values[::-1][:components].sum() / values.sum():.6f}")


if __name__ == "__main__":
    main()
