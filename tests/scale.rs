//! A plan of a million images: time, memory and payloads of the state machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::order;
use futures::stream::BoxStream;
use pomona::{
    dataset::{
        Sealed,
        settings::{Mode, Settings},
    },
    stages::{self, CancellationToken, Silent, Stores},
    store::{MemoryStore, Object, Store},
};

/// An input with many objects, whose listing is generated page by page.
#[derive(Debug)]
struct Endless {
    objects: u64,
}

#[async_trait::async_trait]
impl Store for Endless {
    fn location(&self) -> String {
        "s3://a-bucket-with-quite-a-long-name/and/a/prefix".to_owned()
    }
    fn list<'a>(&'a self, _: &'a str, after: Option<&'a str>) -> BoxStream<'a, pomona::Result<Vec<Object>>> {
        assert!(after.is_none());
        let pages = (0..self.objects.div_ceil(1_000)).map(|page| {
            let keys = page * 1_000..((page + 1) * 1_000).min(self.objects);
            Ok(keys
                .map(|i| Object {
                    key: format!("Training/Apple Golden {:03}/photo-{i:09}_100.jpg", i / 4_000),
                    etag: format!("{i:032x}").into(),
                    size: 4_000,
                    modified: i as i64,
                    packed: None,
                })
                .collect())
        });
        Box::pin(futures::stream::iter(pages))
    }
    async fn get(&self, _: &str) -> pomona::Result<Bytes> {
        unreachable!("a plan reads no image")
    }
    async fn get_listed(&self, _: &Object) -> pomona::Result<Bytes> {
        unreachable!("a plan reads no image")
    }
    async fn get_range(&self, _: &str, _: std::ops::Range<u64>) -> pomona::Result<Bytes> {
        unreachable!("a plan reads no image")
    }
    async fn put_stream(&self, _: &str, _: BoxStream<'_, pomona::Result<Bytes>>) -> pomona::Result<()> {
        unreachable!("the input is never written")
    }
    async fn put_if_absent(&self, _: &str, _: Bytes) -> pomona::Result<bool> {
        unreachable!("the input is never written")
    }
    async fn replace(&self, _: &Object, _: Bytes) -> pomona::Result<bool> {
        unreachable!("the input is never written")
    }
    async fn delete(&self, _: &str) -> pomona::Result<()> {
        unreachable!("the input is never written")
    }
}

/// Limit of these tests for a payload: a quarter of the 256 KiB that Step Functions allows.
const PAYLOAD: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_images_are_planned_with_small_payloads() {
    let output = Arc::new(MemoryStore::new());
    let stores = Stores { input: Arc::new(Endless { objects: 1_000_000 }), output: output.clone() };
    let info = pomona::model::embedded_info(pomona::model::FeatureRange::default(), pomona::model::Decoding::Full);
    let input = order(&Settings::default(), Mode::default(), "million");
    let started = std::time::Instant::now();
    let planned = stages::plan(&stores, &info, input, &Silent, &CancellationToken::default()).await.unwrap();
    println!("planned 1,000,000 images in {:.1} s", started.elapsed().as_secs_f64());
    #[cfg(target_os = "linux")]
    assert!(peak_memory() < 1 << 30, "{} bytes at most", peak_memory());
    assert_eq!((planned.objects, planned.objects_to_featurize), (1_000_000, 1_000_000));
    assert!((950..1_400).contains(&planned.shards), "{}", planned.shards);
    assert!(serde_json::to_vec(&planned).unwrap().len() < PAYLOAD / 16);
    let mut covered = 0;
    let mut shards = 0;
    for line in lines(output.as_ref(), &planned.work_list).await {
        // The item and the two locations that the map adds to it.
        assert!(line.len() + 2_048 < PAYLOAD, "{} bytes", line.len());
        let Sealed(work) = serde_json::from_slice::<Sealed<stages::ShardWork>>(&line).unwrap();
        let objects =
            output.get_range(&work.objects.key, work.objects.offset..work.objects.offset + work.objects.length);
        covered += objects.await.unwrap().iter().filter(|byte| **byte == b'\n').count();
        shards += 1;
    }
    assert_eq!((shards, covered), (planned.shards, 1_000_000));
    let (mut added, mut groups, mut segments) = (0, 0, 0);
    for line in lines(output.as_ref(), &planned.merge_work_list).await {
        assert!(line.len() + 2_048 < PAYLOAD, "{} bytes", line.len());
        let Sealed(work) = serde_json::from_slice::<Sealed<stages::MergeWork>>(&line).unwrap();
        if work.makes == stages::Makes::Segment {
            segments += 1;
            continue;
        }
        let list = output.get_range(&work.shards.key, work.shards.offset..work.shards.offset + work.shards.length);
        added += list.await.unwrap().iter().filter(|byte| **byte == b'\n').count() as u64;
        groups += 1;
    }
    assert!((30..50).contains(&planned.groups), "{}", planned.groups);
    assert_eq!((groups, added), (planned.groups, planned.shards));
    assert_eq!(segments, 0, "in one process, one line makes all of a group");
}

async fn lines(store: &dyn Store, key: &str) -> Vec<Vec<u8>> {
    let text = store.get(key).await.unwrap();
    assert!(text.ends_with(b"\n") && !text.contains(&b'\r'));
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Peak memory of this process in bytes. The output is in memory, so it includes the work lists.
#[cfg(target_os = "linux")]
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    println!("peak memory {} MB", kib / 1_000);
    kib * 1_024
}
