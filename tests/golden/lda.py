"""Weights and biases of scikit-learn's LDA for small data sets of exact features, as JSON.

python tests/golden/lda.py tests/golden/lda.json

The features are whole numbers of quanta (2^-20). Classes are unbalanced, one has a single image, some columns are constant.
"""

import json
import sys

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

PER_UNIT = 1 << 20
SHRINKAGES = [0.03, 0.1, 0.2, 0.4, 0.6]


def data_set(rng, counts, columns, constant):
    labels = np.repeat([f"class {i}" for i in range(len(counts))], counts)
    centres = rng.uniform(0, 3, (len(counts), columns))
    mixing = rng.normal(size=(columns, columns)) / np.sqrt(columns)
    noise = rng.normal(size=(len(labels), columns)) @ mixing
    features = np.clip(np.repeat(centres, counts, axis=0) + noise, 0, 7)
    features[:, constant] = 1.25
    quanta = np.round(features * PER_UNIT).astype(np.int64)
    order = rng.permutation(len(labels))
    return quanta[order], labels[order]


def main(path):
    rng = np.random.default_rng(17)
    cases = []
    for counts, columns, constant in [([30, 9, 1, 17], 12, [3, 7]), ([8, 5], 20, [0]), ([40, 40, 3], 7, [])]:
        quanta, labels = data_set(rng, counts, columns, constant)
        features = quanta / PER_UNIT
        fits = []
        for shrinkage in SHRINKAGES:
            lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
            # With two classes, scikit-learn keeps only the difference of the two.
            fits.append({
                "shrinkage": shrinkage,
                "coef": lda.coef_.tolist(),
                "intercept": np.atleast_1d(lda.intercept_).tolist(),
                "decision": lda.decision_function(features).tolist(),
            })
        cases.append({"labels": labels.tolist(), "quanta": quanta.tolist(), "fits": fits})
    with open(path, "w") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
