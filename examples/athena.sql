-- Tables of a Pomona output in Athena. Replace BUCKET, the prefix and the version.
-- Each version has a folder of its own below pca/: point the table at the one that you mean, or at pca/ with the version as a
-- partition, as here. New versions become visible with ALTER TABLE ... ADD PARTITION or partition projection.

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
  'projection.v.type' = 'integer',
  'projection.v.range' = '1,99999999',
  'projection.v.digits' = '8',
  'storage.location.template' = 's3://BUCKET/pomona/first/pca/v=${v}'
);

-- Features. Athena reads every file of a folder, and shards/ holds the sums as well; so copy the features first:
--   aws s3 cp s3://BUCKET/pomona/first/shards/ s3://BUCKET/athena/features/ --recursive --exclude "*" --include "*/features.parquet"
CREATE EXTERNAL TABLE pomona_features (
  path string,
  label string,
  modified timestamp,
  length bigint,
  etag string,
  features array<float>
)
STORED AS PARQUET
LOCATION 's3://BUCKET/athena/features/';

-- Why images were left out, one file per version.
CREATE EXTERNAL TABLE pomona_rejects (
  path string,
  reason string,
  detail string
)
STORED AS PARQUET
LOCATION 's3://BUCKET/pomona/first/rejects/';

-- Images per label in version 7, and where they lie. Athena counts array elements from 1.
SELECT label, count(*) AS images, avg(pca_features[1]) AS pc_0, avg(pca_features[2]) AS pc_1
FROM pomona_scores
WHERE v = '00000007'
GROUP BY label
ORDER BY images DESC;

-- The ten images most like one of them.
WITH asked AS (
  SELECT pca_features AS point FROM pomona_scores WHERE v = '00000007' AND path = 'Kiwi/0001.jpg'
)
SELECT s.path, sqrt(reduce(zip_with(s.pca_features, asked.point, (x, y) -> (x - y) * (x - y)), 0e0, (sum, d) -> sum + d, sum -> sum)) AS distance
FROM pomona_scores AS s CROSS JOIN asked
WHERE s.v = '00000007'
ORDER BY distance
LIMIT 11;

-- Reasons of the rejects of version 7.
SELECT reason, count(*) AS images
FROM pomona_rejects
WHERE "$path" LIKE '%v=00000007.parquet'
GROUP BY reason;
