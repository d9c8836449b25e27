"""The classifier against scikit-learn on the same features, labels and folds."""

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression


def fold(path):
    return int.from_bytes(hashlib.sha256(b"fold 1\0" + path.encode()).digest()[:8], "big") % 5


class Learned:
    """The tables of an output, in the order of the paths."""

    def __init__(self, output):
        summary = output.manifest["classifier"]
        file = pq.ParquetFile(output.folder / summary["key"])
        self.summary, self.table = summary, file.read().to_pandas()
        self.results = json.loads(file.metadata.metadata[b"pomona.results"])
        folder = output.folder / f"predictions/v={output.manifest['version']:08}"
        self.predictions = pd.read_parquet(folder).sort_values("path", ignore_index=True)
        features = output.features().sort_values("path", ignore_index=True)
        assert features["path"].equals(self.predictions["path"])
        self.x = np.stack(features["features"]).astype(np.float64)
        self.y = features["label"].to_numpy()
        self.folds = np.array([fold(path) for path in features["path"]])


@pytest.fixture(scope="module")
def learned(demo):
    return Learned(demo)


def peer(learned, rows):
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=learned.summary["shrinkage"])
    return lda.fit(learned.x[rows], learned.y[rows])


def test_weights_and_decision_values_are_scikit_learns(learned):
    rows = learned.table[learned.table["fold"].isna()]
    lda = peer(learned, np.ones(len(learned.y), bool))
    assert list(rows["label"]) == list(lda.classes_)
    ours = learned.x @ np.stack(rows["weights"]).T + rows["bias"].to_numpy()
    theirs = lda.decision_function(learned.x)
    assert np.abs(ours - theirs).max() <= 1e-8 * np.abs(theirs).max()
    assert np.allclose(np.stack(rows["mean"]), lda.means_, rtol=1e-12, atol=1e-12)
    assert list(rows["images"]) == [int((learned.y == label).sum()) for label in lda.classes_]


def test_each_image_is_predicted_by_the_refit_without_its_fold(learned):
    temperature, found = learned.summary["temperature"], learned.predictions
    correct = 0
    for number in range(5):
        inside = learned.folds == number
        lda = peer(learned, ~inside)
        scores = lda.decision_function(learned.x[inside])
        best = lda.classes_[scores.argmax(1)]
        assert list(found["predicted"][inside]) == list(best)
        scaled = np.exp((scores - scores.max(1, keepdims=True)) / temperature)
        probabilities = scaled / scaled.sum(1, keepdims=True)
        assert np.allclose(found["probability"][inside], probabilities.max(1), atol=1e-7)
        own = probabilities[np.arange(inside.sum()), np.searchsorted(lda.classes_, learned.y[inside])]
        assert np.allclose(found["label_probability"][inside], own, atol=1e-7)
        assert list(found["suspect"][inside]) == list(found["label_probability"][inside] < 0.05)
        right = int((best == learned.y[inside]).sum())
        assert learned.results["folds"][number] == [int(inside.sum()), right]
        correct += right
    assert learned.summary["correct"] == correct


def test_the_shrinkage_is_that_with_the_most_right_answers(learned):
    shrinkages = learned.results["shrinkages"]
    most = max(correct for _, correct in shrinkages)
    assert dict(shrinkages)[learned.summary["shrinkage"]] == most == learned.summary["correct"]


def test_the_accuracy_is_at_least_that_of_logistic_regression_minus_a_point(learned):
    correct = 0
    for number in range(5):
        inside = learned.folds == number
        model = LogisticRegression(max_iter=300).fit(learned.x[~inside], learned.y[~inside])
        correct += int((model.predict(learned.x[inside]) == learned.y[inside]).sum())
    assert learned.summary["correct"] >= correct - 0.01 * len(learned.y)
