//! Publishes a version with many rows, without images: the features of all shards are generated before.
//!
//!     publish_rows prepare OUTPUT ROWS     # writes shards/ as `pomona run` would have
//!     publish_rows run OUTPUT ROWS         # plan, merge, reduce, project, publish, report; prints peak memory
//!     publish_rows run OUTPUT ROWS NEW     # the same with NEW more images, which are inferred
//!
//! `bench/publishing.py` calls these. The run is the one of `pomona run`: it lists the images, finds all shards finished, and
//! reads every feature. A row of the built-in model takes 5 KB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a benchmark may panic

use std::{ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use ndarray::Array2;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        Checksum, LabelCount, Sealed, ShardRecord, keys,
        tables::{Compression, FeatureRows, write_features},
        to_record,
    },
    model::{Decoding, Extractor, FeatureRange, WorkerPool, embedded_info},
    pipeline,
    stages::{self, CancellationToken, PlanInput, ShardWork, Silent, Stores},
    store::{FolderStore, Object, Store},
};

/// Images of a folder.
const FOLDER: u64 = 4_000;

/// A bucket with many images, of which only the last ones can be read. Their listing is generated page by page.
#[derive(Debug)]
struct Generated {
    rows: u64,
    new: u64,
}

impl Generated {
    fn object(i: u64) -> Object {
        let key = format!("Training/Apple Golden {:03}/photo-{i:09}_100.png", i / FOLDER);
        Object { key, etag: format!("{i:032x}").into(), size: 4_000, modified: i as i64, packed: None }
    }

    fn nothing<T>(key: &str) -> Result<T> {
        Err(Error::new(ErrorKind::StoreNotFound, "only new images exist").context("key", key))
    }

    fn picture(&self, key: &str) -> Result<Bytes> {
        let number = key.rsplit_once('-').and_then(|(_, end)| end.strip_suffix("_100.png")?.parse::<u64>().ok());
        let Some(number) = number.filter(|number| *number >= self.rows) else { return Self::nothing(key) };
        let picture = image::RgbImage::from_fn(100, 100, |x, y| {
            image::Rgb([x as u8, y as u8, number as u8].map(|value| value.wrapping_mul(2)))
        });
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
        Ok(file.into_inner().into())
    }
}

#[async_trait::async_trait]
impl Store for Generated {
    fn location(&self) -> String {
        "s3://generated/images".to_owned()
    }
    fn list<'a>(&'a self, _: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        assert!(after.is_none(), "the whole bucket is listed");
        let all = self.rows + self.new;
        let pages = (0..all.div_ceil(1_000)).map(move |page| page * 1_000..((page + 1) * 1_000).min(all));
        stream::iter(pages.map(|page| Ok(page.map(Self::object).collect()))).boxed()
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.picture(key)
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.picture(&object.key)
    }
    async fn get_range(&self, key: &str, _: Range<u64>) -> Result<Bytes> {
        Self::nothing(key)
    }
    async fn put_stream(&self, key: &str, _: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        Self::nothing(key)
    }
    async fn put_if_absent(&self, key: &str, _: Bytes) -> Result<bool> {
        Self::nothing(key)
    }
    async fn replace(&self, listed: &Object, _: Bytes) -> Result<bool> {
        Self::nothing(&listed.key)
    }
    async fn delete(&self, key: &str) -> Result<()> {
        Self::nothing(key)
    }
}

/// Features with some structure, so that the first components differ from noise: multiples of 2^-20 below 6.
fn features(objects: &[Object], columns: usize) -> Array2<f32> {
    let mut rng = fastrand::Rng::with_seed(objects[0].modified as u64);
    let mut features = Array2::zeros((objects.len(), columns));
    for mut row in features.outer_iter_mut() {
        let kind = rng.usize(..20);
        for (i, value) in row.iter_mut().enumerate() {
            let size = if i % 20 == kind { 6 << 20 } else { 1 << 20 };
            *value = rng.u32(..size) as f32 / (1 << 20) as f32;
        }
    }
    features
}

/// Writes the files of a shard as the stage `featurize` does.
async fn write_shard(output: &dyn Store, work: ShardWork, columns: usize, extractor: &str) {
    let list = &work.objects;
    let text = output.get_range(&list.key, list.offset..list.offset + list.length).await.unwrap();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let objects: Vec<Object> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    let label =
        |object: &Object| object.key.rsplit_once('/').map(|(folder, _)| folder.rsplit('/').next().unwrap().to_owned());
    let labels: Vec<Option<String>> = objects.iter().map(label).collect();
    let mut counts: Vec<LabelCount> = Vec::new();
    for label in &labels {
        match counts.iter_mut().find(|count| count.label == *label) {
            Some(count) => count.images += 1,
            None => counts.push(LabelCount { label: label.clone(), images: 1 }),
        }
    }
    let rows = FeatureRows {
        paths: objects.iter().map(|object| object.key.clone()).collect(),
        labels,
        splits: vec![None; objects.len()],
        modified: objects.iter().map(|object| object.modified).collect(),
        lengths: objects.iter().map(|object| object.size as i64).collect(),
        etags: objects.iter().map(|object| object.etag.as_str().to_owned()).collect(),
        contents: objects.iter().map(|object| Some(format!("{:064x}", object.modified))).collect(),
        features: features(&objects, columns),
        thumbnails: Array2::zeros((objects.len(), 0)),
        keypoints: Vec::new(),
    };
    let table = write_features(rows, extractor, Compression::Snappy).unwrap();
    let record = ShardRecord {
        id: work.shard.clone(),
        extractor: extractor.to_owned().into(),
        rows: objects.len() as u64,
        first: objects[0].key.clone(),
        last: objects[objects.len() - 1].key.clone(),
        labels: counts,
        rejects: Vec::new(),
        features: Some(Checksum::of(&table)),
    };
    output.put(&keys::features(&work.shard), table).await.unwrap();
    output.put(&keys::shard(&work.shard), to_record(&record).unwrap()).await.unwrap();
}

fn run_id(name: &str) -> pomona::ids::RunId {
    name.to_owned().try_into().unwrap()
}

async fn prepare(stores: &Stores) {
    let info = embedded_info(FeatureRange::default(), Decoding::Full);
    let order = PlanInput::new(run_id("prepare"));
    let planned = stages::plan(stores, &info, order, &Silent, &CancellationToken::default()).await.unwrap();
    let text = stores.output.get(&planned.work_list).await.unwrap();
    let work =
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = stream::iter(work).map(|line| {
        let (output, id) = (stores.output.clone(), info.id.as_str().to_owned());
        tokio::spawn(async move {
            let Sealed(work) = serde_json::from_slice(&line).unwrap();
            write_shard(output.as_ref(), work, info.columns, &id).await;
        })
    });
    shards.buffer_unordered(threads).for_each(|shard| async { shard.unwrap() }).await;
    stores.output.delete(&keys::started(&run_id("prepare"))).await.unwrap();
}

async fn publish(stores: &Stores, name: &str) {
    let extractor = Extractor::embedded(FeatureRange::default()).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = WorkerPool::new(Arc::new(extractor), threads).unwrap();
    let started = Instant::now();
    let order = PlanInput::new(run_id(name));
    let stop = CancellationToken::default();
    let mut summary = pipeline::run(stores, &workers, &order, &Silent, &stop).await.unwrap();
    let published = peak_memory();
    pipeline::report(stores, &mut summary, &Silent).await.unwrap();
    let stages: Vec<String> =
        summary.seconds.iter().map(|(stage, seconds)| format!("\"{stage}\": {seconds:.2}")).collect();
    println!(
        "{{\"images\": {}, \"inferred\": {}, \"copied\": {}, \"shards\": {}, \"groups\": {}, \"seconds\": {:.1}, \
         \"peak_mb_until_published\": {published}, \"peak_mb\": {}, \"seconds_by_stage\": {{{}}}}}",
        summary.manifest.images,
        summary.figures.inferred,
        summary.figures.copied,
        summary.manifest.shards(),
        summary.manifest.groups.len(),
        started.elapsed().as_secs_f64(),
        peak_memory(),
        stages.join(", ")
    );
}

/// Peak resident memory of this process in MB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the program runs on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024 / 1_000_000
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text: Vec<&str> = args.iter().map(String::as_str).collect();
    let stores = |output: &str, rows: &str, new: u64| Stores {
        input: Arc::new(Generated { rows: rows.parse().unwrap(), new }),
        output: Arc::new(FolderStore::new(output)),
    };
    match text[..] {
        ["prepare", output, rows] => prepare(&stores(output, rows, 0)).await,
        ["run", output, rows] => publish(&stores(output, rows, 0), "first").await,
        ["run", output, rows, new] => {
            publish(&stores(output, rows, new.parse().unwrap()), &format!("with-{new}")).await;
        }
        _ => panic!("publish_rows prepare|run OUTPUT ROWS [NEW]"),
    }
}
