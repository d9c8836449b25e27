"""The versions of a data set, and their tables."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import pyarrow
import pyarrow.parquet

from pomona import _pomona
from pomona._photos import Photo, expect_numpy, load

if TYPE_CHECKING:
    import numpy
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Hit:
    """An image that is like another one."""

    path: str
    distance: float
    """Cosine distance (0 to 2) or Euclidean distance (units of the features)."""
    label: str | None


@dataclass(frozen=True)
class Prediction:
    """What the classifier says about a photo."""

    path: str
    label: str | None
    """The most probable label; None if the photo cannot be read."""
    probability: float | None
    second: str | None
    """The next label."""
    second_probability: float | None
    problem: str | None
    """Why there is no label, as in the table of rejects; or `unlike_anything_seen`."""
    detail: str | None
    neighbours: list[dict[str, Any]]
    """The most similar images of the data set: path, label, similarity."""


class Basis:
    """The principal components of a version."""

    components: NDArray[numpy.float64]
    """[components, features]: orthonormal rows."""
    mean: NDArray[numpy.float64]
    """[features]"""
    scale: NDArray[numpy.float64]
    """[features]: 1 where features are not standardised."""
    explained_variance: NDArray[numpy.float64]
    """[components]: sample variances of the scores, descending."""
    explained_variance_ratio: NDArray[numpy.float64]
    """[components]: shares of the total variance."""

    def __init__(self, file: bytes) -> None:
        expect_numpy()
        import numpy

        table = pyarrow.parquet.read_table(pyarrow.BufferReader(file))
        kinds = table["kind"].to_pylist()
        values = table["values"].combine_chunks().flatten().to_numpy().reshape(len(kinds), -1)
        kept = [row for row, kind in enumerate(kinds) if kind == "component"]
        self.mean = values[kinds.index("mean")]
        self.scale = values[kinds.index("scale")]
        self.components = values[kept]
        for name in ("explained_variance", "explained_variance_ratio"):
            setattr(self, name, numpy.array(table[name].to_pylist(), dtype=numpy.float64)[kept])

    def transform(self, x: ArrayLike) -> NDArray[numpy.float32]:
        """The scores of features: [images, features] -> [images, components], as `transform` of scikit-learn's PCA."""
        import numpy

        rows = numpy.asarray(x, dtype=numpy.float64)
        if rows.ndim != 2 or rows.shape[1] != self.mean.size:
            raise ValueError(f"features must have the shape [images, {self.mean.size}], not {list(rows.shape)}")
        # Constant columns have the scale 0 and no part in the scores.
        varies = self.scale != 0
        centred = (rows[:, varies] - self.mean[varies]) / self.scale[varies]
        scores: NDArray[numpy.float32] = (centred @ self.components[:, varies].T).astype(numpy.float32)
        return scores


class Data:
    """A version of a data set. Tables are in the order of the paths, and their files are checked against their checksums."""

    def __init__(self, output: str | os.PathLike[str], version: int | None = None) -> None:
        """The newest version of an output (a folder or `s3://bucket/prefix/`), or the one with a number."""
        self.output = os.fspath(output)
        self._version = _pomona.Version(self.output, version)
        self._model: _pomona.Model | None = None

    def __repr__(self) -> str:
        return f"<pomona.Data: version {self.version} of {self.output}, {self.images} images>"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the version: settings, figures, files (docs/file-formats.md)."""
        manifest: dict[str, Any] = json.loads(self._version.manifest())
        return manifest

    @property
    def version(self) -> int:
        """The number of the version."""
        return int(self.manifest["version"])

    @property
    def images(self) -> int:
        """The number of images with features."""
        return int(self.manifest["images"])

    @property
    def accuracy(self) -> float | None:
        """The share of training images whose label is predicted by a model that has not seen them; None without a classifier."""
        classifier = self.manifest.get("classifier") or {}
        return classifier["correct"] / max(1, classifier["images"]) if classifier.get("state") == "fitted" else None

    def _table(self, name: str) -> pyarrow.Table:
        files = self._version.table(name)
        tables = []
        for key, file in files:
            table = pyarrow.parquet.read_table(pyarrow.BufferReader(file))
            folder = next((part for part in key.split("/") if part.startswith("label=")), None)
            if folder is not None and "label" not in table.column_names:
                label = None if folder == "label=__HIVE_DEFAULT_PARTITION__" else unquote(folder.removeprefix("label="))
                column = pyarrow.array([label] * table.num_rows, pyarrow.string())
                table = table.add_column(1, "label", column)
            tables.append(table.replace_schema_metadata(None))
        if not tables:
            raise ValueError(f"version {self.version} has no table of {name}")
        table = pyarrow.concat_tables(tables, promote_options="default")
        return table.sort_by("path") if any("/label=" in key for key, _ in files) else table

    def features(self) -> pyarrow.Table:
        """`path`, `label`, `split` and others, and `features`: a list of float32 per image."""
        return self._table("features")

    def scores(self) -> pyarrow.Table:
        """`path`, `label`, and `pca_features`: a float32 for each principal component."""
        return self._table("scores")

    def predictions(self) -> pyarrow.Table:
        """What a model that has not seen an image says about it; `suspect` labels are probably wrong."""
        return self._table("predictions")

    def duplicates(self) -> pyarrow.Table:
        """Images that are there twice, in groups."""
        return self._table("duplicates")

    def outliers(self) -> pyarrow.Table:
        """Images that are unlike the others."""
        return self._table("outliers")

    def rejects(self) -> pyarrow.Table:
        """Objects without features, and why."""
        return self._table("rejects")

    def matrix(self) -> tuple[list[str], list[str | None], NDArray[numpy.float32]]:
        """Paths, labels and features: [images, columns]. The array shares the memory of the table if it is one file."""
        expect_numpy()
        table = self.features()
        rows = table["features"].combine_chunks()
        if isinstance(rows, pyarrow.ChunkedArray):
            rows = pyarrow.concat_arrays(rows.chunks)
        array = rows.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
        return table["path"].to_pylist(), table["label"].to_pylist(), array

    @cached_property
    def basis(self) -> Basis:
        """The principal components."""
        return Basis(self._version.basis())

    def _engine(self, model: str | os.PathLike[str] | None) -> _pomona.Model:
        if self._model is None or model is not None:
            self._model = self._version.model(model)
        return self._model

    def predict(
        self,
        photos: Photo | Iterable[Photo],
        *,
        neighbours: int = 0,
        model: str | os.PathLike[str] | None = None,
    ) -> list[Prediction]:
        """What is on photos: paths, bytes or open files. A broken photo has a `problem` and no label.

        `model` is the ONNX file of a data set that was made with one.
        """
        names, contents = load(photos)
        answers = json.loads(self._version.predict(self._engine(model), names, contents, neighbours))
        predictions = []
        for answer in answers:
            second = answer.pop("second") or {}
            answer.pop("distance", None)
            answer["second"], answer["second_probability"] = second.get("label"), second.get("probability")
            predictions.append(Prediction(**answer))
        return predictions

    def search(
        self,
        photo: Photo | None = None,
        *,
        like: str | None = None,
        count: int = 10,
        label: str | None = None,
        metric: Literal["cosine", "euclidean"] = "cosine",
        space: Literal["features", "scores"] = "features",
        model: str | os.PathLike[str] | None = None,
    ) -> list[Hit]:
        """The images nearest to a photo, or to the image of the data set with the path `like`; exactly, the nearest first."""
        if (photo is None) == (like is None):
            raise ValueError("give either a photo or like=PATH")
        query = None
        if photo is not None:
            names, contents = load(photo)
            engine = self._engine(model)
            features, reject = engine.features(contents)[0]
            if reject is not None or features is None:
                reason, detail = reject or ("unreadable", "")
                raise ValueError(f"{names[0]} cannot be read as an image ({reason}: {detail})")
            query = [value[0] for value in struct.iter_unpack("<f", features)]
        hits = self._version.search(query, like, count, metric, label, space == "scores")
        return [Hit(**hit) for hit in json.loads(hits)]


def open(output: str | os.PathLike[str], version: int | None = None) -> Data:
    """The newest version of an output (a folder or `s3://bucket/prefix/`), or the one with a number."""
    return Data(output, version)


def versions(output: str | os.PathLike[str]) -> list[int]:
    """The numbers of the published versions of an output, ascending."""
    return _pomona.versions(os.fspath(output))
