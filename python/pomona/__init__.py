"""Image features, PCA, classification and search at any scale, without a cluster.

>>> import pomona
>>> data = pomona.run("photos/", "results/", components=3, progress=False)
>>> data.version, data.images
(1, 8)
>>> data.scores().column_names
['path', 'label', 'pca_features']

Tables are `pyarrow.Table`: pandas, Polars and DuckDB read them without a copy. What returns arrays needs NumPy.
"""

from pomona._data import Basis, Data, Hit, Prediction, open, versions
from pomona._pomona import Error, __version__
from pomona._run import features, run

__all__ = ["Basis", "Data", "Error", "Hit", "Prediction", "__version__", "features", "open", "run", "versions"]
