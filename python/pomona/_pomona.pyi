from collections.abc import Callable
from os import PathLike

__version__: str

class Error(Exception):
    """What went wrong."""

    name: str
    advice: str
    retryable: bool

class Model:
    columns: int
    def __init__(self, model: str | PathLike[str] | None = None, threads: int | None = None, extractor: str | None = None) -> None: ...
    def info(self) -> str: ...
    def features(self, photos: list[bytes]) -> list[tuple[bytes | None, tuple[str, str] | None]]: ...

class Version:
    def __init__(self, output: str, version: int | None = None) -> None: ...
    def manifest(self) -> str: ...
    def table(self, name: str) -> list[tuple[str, bytes]]: ...
    def basis(self) -> bytes: ...
    def model(self, model: str | PathLike[str] | None = None) -> Model: ...
    def predict(self, model: Model, names: list[str], photos: list[bytes], neighbours: int) -> str: ...
    def search(
        self,
        features: list[float] | None,
        like: str | None,
        count: int,
        metric: str,
        label: str | None,
        scores: bool,
    ) -> str: ...

def main(arguments: list[str]) -> int: ...
def versions(output: str) -> list[int]: ...
def model_of_run(
    images: str,
    output: str,
    inventory: str | None = None,
    model: str | PathLike[str] | None = None,
    extractor: str | None = None,
    vocabulary: str | None = None,
    words: int | None = None,
    weights: str | None = None,
    keypoints: bool | None = None,
    scaled: bool = False,
    threads: int | None = None,
) -> Model: ...
def run(
    images: str,
    output: str,
    settings: str,
    mode: str,
    model: Model,
    inventory: str | None = None,
    labels: str | None = None,
    told: Callable[[str, int, int | None], object] | None = None,
    noted: Callable[[str], object] | None = None,
) -> int: ...
