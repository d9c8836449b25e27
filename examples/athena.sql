-- Tables of a Pomona output in Athena. Replace BUCKET, the prefix and the version. The stack makes these tables itself with the
-- parameter GlueDatabase (docs/deploy.md).
-- Each version has its own folder below pca/ and is a partition of the table. Its value is "injected": Athena takes it from the
-- query, so a new version can be read at once, without ALTER TABLE, and nothing is listed or copied. Each query has to name the
-- versions that it reads (WHERE v = '00000007').

CREATE EXTERNAL TABLE pomona_scores (
  path string,
  label string,
  pca_features array<float>
)
PARTITIONED BY (v string)
STORED AS PARQUET
LOCATION 's3://BUCKET/pomona/first/pca/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.v.type' = 'injected',
  'storage.location.template' = 's3://BUCKET/pomona/first/pca/v=${v}'
);

-- Features. features/v=.../symlink.txt lists the tables of a version; they stay where they are, in shards/.
CREATE EXTERNAL TABLE pomona_features (
  path string,
  label string,
  split string,
  modified timestamp,
  length bigint,
  etag string,
  content_sha256 string,
  features array<float>,
  thumbnail array<float>,
  keypoints array<struct<x: float, y: float, octave: int, angle: float, response: float, descriptor: binary>>
)
PARTITIONED BY (v string)
ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'
STORED AS
  INPUTFORMAT 'org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat'
  OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat'
LOCATION 's3://BUCKET/pomona/first/features/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.v.type' = 'injected',
  'storage.location.template' = 's3://BUCKET/pomona/first/features/v=${v}'
);

-- Rejected images and their reasons, one file per version.
CREATE EXTERNAL TABLE pomona_rejects (
  path string,
  reason string,
  detail string
)
STORED AS PARQUET
LOCATION 's3://BUCKET/pomona/first/rejects/';

-- Images per label in version 7, and their mean on the first two components. Athena counts array elements from 1.
SELECT label, count(*) AS images, avg(pca_features[1]) AS pc_0, avg(pca_features[2]) AS pc_1
FROM pomona_scores
WHERE v = '00000007'
GROUP BY label
ORDER BY images DESC;

-- The ten nearest neighbours of an image; the first row is the image itself.
WITH asked AS (
  SELECT pca_features AS point FROM pomona_scores WHERE v = '00000007' AND path = 'Kiwi/0001.jpg'
)
SELECT s.path, sqrt(reduce(zip_with(s.pca_features, asked.point, (x, y) -> (x - y) * (x - y)), 0e0, (sum, d) -> sum + d, sum -> sum)) AS distance
FROM pomona_scores AS s CROSS JOIN asked
WHERE s.v = '00000007'
ORDER BY distance
LIMIT 11;

-- Rejects of version 7 by reason.
SELECT reason, count(*) AS images
FROM pomona_rejects
WHERE "$path" LIKE '%v=00000007.parquet'
GROUP BY reason;
