"""The pipeline that Pomona replaces, on one machine: PySpark, Keras in a pandas function, Spark ML, Parquet.

usage: peer_pyspark.py IMAGES OUTPUT COMPONENTS
"""

import io
import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", PYSPARK_PYTHON=sys.executable)

import numpy as np
import pandas as pd
from PIL import Image
from pyspark.ml.feature import PCA, StandardScaler
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, element_at, split, udf


def main():
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../tests/golden"))
    from keras_features import model as load_model

    images, output, components = sys.argv[1], sys.argv[2], int(sys.argv[3])
    cores = os.cpu_count()
    spark = (
        SparkSession.builder.appName("peer").master(f"local[{cores}]").config("spark.driver.memory", "8g")
        .config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "1024").getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    weights = spark.sparkContext.broadcast(load_model().get_weights())

    def featurize(batches):
        from tensorflow.keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input

        model = MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3), pooling="avg")
        model.set_weights(weights.value)
        for batch in batches:
            pictures = [Image.open(io.BytesIO(c)).convert("RGB").resize((224, 224)) for c in batch["content"]]
            x = preprocess_input(np.stack([np.asarray(p, np.float32) for p in pictures]))
            yield pd.DataFrame({
                "path": batch["path"], "label": batch["label"],
                "features": [row.tolist() for row in model.predict(x, verbose=0)],
            })

    files = spark.read.format("binaryFile").option("pathGlobFilter", "*.jpg").option("recursiveFileLookup", "true").load(images)
    files = files.withColumn("label", element_at(split(files["path"], "/"), -2)).select("path", "label", "content")
    table = files.repartition(24).mapInPandas(featurize, "path string, label string, features array<float>")
    table.write.mode("overwrite").parquet(output + "/features")

    to_vector = udf(lambda xs: Vectors.dense(xs), VectorUDT())
    rows = spark.read.parquet(output + "/features").withColumn("vector", to_vector(col("features")))
    scaled = StandardScaler(withMean=True, withStd=True, inputCol="vector", outputCol="scaled").fit(rows).transform(rows)
    fitted = PCA(k=components, inputCol="scaled", outputCol="pca_features").fit(scaled)
    fitted.transform(scaled).select("path", "label", "pca_features").write.mode("overwrite").parquet(output + "/pca")
    print(f"cumulative ratio {sum(fitted.explainedVariance):.6f}")
    spark.stop()


if __name__ == "__main__":
    main()
