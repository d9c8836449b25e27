"""The PCA against scikit-learn and NumPy on the same features."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA


def signed(vectors):
    """The sign rule: the loading of largest absolute value is positive."""
    return vectors * np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)])[:, None]


@pytest.mark.parametrize("name", ["demo", "centred", "many"])
def test_basis_and_scores_are_scikit_learns(name, request):
    output = request.getfixturevalue(name)
    features = np.stack(output.features()["features"]).astype(np.float64)
    scores = np.stack(pd.read_parquet(output.pca).sort_values("path")["pca_features"])
    standardised = output.manifest["settings"]["standardize"]
    mean, deviation = features.mean(0), features.std(0, ddof=1)
    varying = deviation > 0
    x = (features - mean)[:, varying]
    if standardised:
        x /= deviation[varying]
    k = output.manifest["basis"]["components"]
    peer = PCA(k, svd_solver="full").fit(x)

    basis = output.basis()
    components = basis[basis["kind"] == "component"]
    rows = {kind: basis[basis["kind"] == kind]["values"].iloc[0] for kind in ("mean", "scale")}
    assert np.allclose(rows["mean"], mean, rtol=1e-12, atol=1e-12)
    expected = np.where(varying, deviation if standardised else 1.0, 0.0)
    assert np.allclose(rows["scale"], expected, rtol=1e-9, atol=0)
    assert (~varying).sum() == output.manifest["basis"]["constant_columns"]

    # Beyond the rank there is only rounding error; all components here are well within the rank.
    assert np.allclose(components["explained_variance"], peer.explained_variance_, rtol=1e-9, atol=0)
    assert np.allclose(components["explained_variance_ratio"], peer.explained_variance_ratio_, rtol=1e-9, atol=0)
    ours = np.stack(components["values"])
    assert (ours[:, ~varying] == 0).all()
    theirs = signed(peer.components_)
    assert np.allclose(ours[:, varying], theirs, rtol=0, atol=1e-7)
    largest = np.abs(scores).max()
    assert np.abs(scores - x @ theirs.T).max() <= 1e-6 * largest

    # And NumPy's eigenvalues of the whole matrix.
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    together = np.cumsum(np.clip(values, 0, None)) / values.sum()
    assert output.manifest["basis"]["components_for_90_percent"] == np.searchsorted(together, 0.9) + 1


def test_there_are_constant_columns_and_both_shapes_of_data(demo, many):
    assert demo.manifest["basis"]["constant_columns"] >= 1
    assert demo.manifest["images"] < demo.manifest["extractor"]["columns"]
    assert many.manifest["images"] > many.manifest["extractor"]["columns"]
