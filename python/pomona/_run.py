"""Runs, and the features of photos."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pomona import _pomona
from pomona._data import Data
from pomona._photos import Photo, expect_numpy, load

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


# What computes features without a model of the user's.
Extractor: TypeAlias = Literal["mobilenetv2", "raw", "histogram", "orb"]


class _Line:
    """Progress in one line: of a notebook or a terminal."""

    def __init__(self) -> None:
        self._stage, self._since, self._shown = "", 0.0, False

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()
        # What takes less than two seconds needs no line.
        if time.monotonic() - self._since < 2:
            return
        rate = done / (time.monotonic() - self._since)
        text = f"{stage} {done:,}" + (f" of {total:,}, {rate:,.0f}/s" if total else "")
        sys.stderr.write(f"\r{text:<60}")
        sys.stderr.flush()
        self._shown = True

    def close(self) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * 60 + "\r")
            sys.stderr.flush()


def run(
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    components: int | None = None,
    variance: float | None = None,
    standardize: bool | None = None,
    labels: str | os.PathLike[str] | None = None,
    inventory: str | None = None,
    model: str | os.PathLike[str] | None = None,
    extractor: Extractor | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    words: int | None = None,
    word_weights: Literal["counts", "l1", "tf_idf"] | None = None,
    keypoints: bool | None = None,
    threads: int | None = None,
    refit: Literal["always", "never"] = "always",
    rebuild: bool = False,
    upgrade: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Data:
    """Makes or updates the data set of a folder or bucket of images, and opens the new version.

    Only new and changed images are inferred. `components` or `variance` (a share, such as 0.9) say how many principal components
    are kept. `extractor` computes the features if there is no `model`; without both, it is that of the last version.
    `vocabulary` is a file of visual words that another output has made (`vocabularies/` in it); without one, `orb` keeps those
    of the last version, or makes `words` new ones; with `keypoints=True`, a column of the features has the keypoints of each
    image. Other settings have the names of docs/file-formats.md, such as `csv=True`,
    `label_depth=1`, `classifier=False` or `max_reject_percent=5`. Ctrl-C stops the run; the next one goes on where it stopped.
    Raises `pomona.Error`, which has the error's `name` and `advice`.
    """
    if components is not None and variance is not None:
        raise ValueError("give either components or variance")
    if components is not None:
        settings["pca"] = {"components": components}
    if variance is not None:
        settings["pca"] = {"variance": variance}
    if standardize is not None:
        settings["standardize"] = standardize
    mode = {"refit": refit, "rebuild": rebuild, "upgrade": upgrade}
    for name in ("listing", "input_moved", "accept_deletions"):
        if name in settings:
            mode[name] = settings.pop(name)
    scaled = settings.pop("decode", "full") == "scaled"
    if extractor != "orb" and (vocabulary, words, word_weights, keypoints) != (None, None, None, None):
        raise ValueError("vocabulary, words, word_weights and keypoints belong to extractor='orb'")
    places = (os.fspath(images), os.fspath(output))
    given = None if vocabulary is None else os.fspath(vocabulary)
    engine = _pomona.model_of_run(
        *places, inventory, model, extractor, given, words, word_weights, keypoints, scaled, threads
    )
    line = _Line() if progress else None
    try:
        version = _pomona.run(
            *places,
            json.dumps(settings),
            json.dumps(mode),
            engine,
            inventory,
            None if labels is None else os.fspath(labels),
            line,
            lambda note: warnings.warn(note, stacklevel=3),
        )
    finally:
        if line is not None:
            line.close()
    return Data(output, version)


def features(
    photos: Photo | Iterable[Photo],
    *,
    model: str | os.PathLike[str] | None = None,
    extractor: Extractor | None = None,
    threads: int | None = None,
    on_error: Literal["raise", "nan"] = "raise",
) -> NDArray[numpy.float32]:
    """The features of photos: [photos, columns]; 1,280 columns with the built-in MobileNetV2, 3,072 with
    `extractor="raw"`, 512 with `"histogram"`.

    Photos are paths, bytes or open files. One that cannot be read raises `ValueError`, or has a row of NaN (`on_error="nan"`).
    """
    expect_numpy()
    import numpy

    names, contents = load(photos)
    engine = _pomona.Model(model, threads, extractor=extractor)
    array = numpy.full((len(contents), engine.columns), numpy.nan, dtype=numpy.float32)
    for row, (name, (values, reject)) in enumerate(zip(names, engine.features(contents), strict=True)):
        if values is not None:
            array[row] = numpy.frombuffer(values, dtype="<f4")
        elif on_error == "raise":
            reason, detail = reject or ("unreadable", "")
            raise ValueError(f"{name} cannot be read as an image ({reason}: {detail})")
    return array
