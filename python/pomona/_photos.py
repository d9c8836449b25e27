"""Photos as the user has them: paths, bytes, open files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO, TypeAlias, cast

Photo: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
"""A path, the content of an image file, or an open file."""


def load(photos: Photo | Iterable[Photo]) -> tuple[list[str], list[bytes]]:
    """The names and the contents of photos: one, or several. A photo that is no file has its number as name."""
    if isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(photos, "read"):
        photos = [cast(Photo, photos)]
    names, contents = [], []
    for number, photo in enumerate(photos):
        if isinstance(photo, (str, os.PathLike)):
            names.append(os.fspath(photo))
            with open(photo, "rb") as file:
                contents.append(file.read())
        else:
            names.append(str(number))
            contents.append(bytes(photo) if isinstance(photo, (bytes, bytearray, memoryview)) else photo.read())
    return names, contents


def expect_numpy() -> None:
    """Raises an error that says how to install NumPy if it is missing."""
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise ImportError("this returns an array, which needs NumPy: pip install 'pomona[numpy]'") from error
