//! The JSON API of a version, asked as a Lambda asks it: the router without a server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::asking::*;
use crate::common::*;
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use pomona::{
    Error, ErrorKind,
    model::ExtractorInfo,
    serve::{self, Current, Limits, MakeWorkers, Offer, Uploads},
    stages::Stores,
    store::{MemoryStore, Store},
};
use serde_json::Value;

/// A data set of images that differ by label, and its stores.
async fn served(images_of: u64) -> (Router, Stores, Arc<MemoryStore>) {
    let (input, output) = (images(0..images_of).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    run(&stores, &engine("tiny", 2), &small_shards(), "a").await.unwrap();
    let current = Current::new(output, None, tiny(), 0);
    (serve::api(current, Limits { photo_bytes: 1 << 20, ..Limits::default() }, None), stores, input)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_of_the_data_set_is_predicted_and_is_its_own_nearest_image() {
    let (router, ..) = served(200).await;
    let (status, found) = send(&router, "/search?n=5", png(77)).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    assert_eq!((found["version"].as_u64(), paths(&found).len()), (Some(1), 5));
    assert_eq!(
        (found["images"][0]["path"].as_str(), &found["images"][0]["distance"]),
        (Some(key(77).as_str()), &0.0.into())
    );

    let (_, labelled) = send(&router, "/search?n=30&label=apple&metric=euclidean", png(77)).await;
    let images = labelled["images"].as_array().unwrap();
    assert!(images.len() == 30 && images.iter().all(|hit| hit["label"] == "apple"), "{labelled}");
    let distances: Vec<f64> = images.iter().map(|hit| hit["distance"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted() && distances[0] > 0.0);

    let (status, said) = send(&router, "/predict?n=3", png(77)).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let likely = said["likely"].as_array().unwrap();
    assert_eq!((likely.len(), &likely[0]["label"]), (4, &said["label"]));
    assert_eq!(likely[0]["probability"], said["probability"]);
    let sum: f64 = likely.iter().map(|likely| likely["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{said}");
    assert_eq!((said["neighbours"].as_array().unwrap().len(), &said["neighbours"][0]["path"]), (3, &key(77).into()));
    // Not more than was asked for.
    assert_eq!(send(&router, "/predict", png(77)).await.1["neighbours"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_searched_by_its_path_and_is_not_its_own_answer() {
    let (router, ..) = served(120).await;
    let (status, found) = get(&router, "/search?like=apple/00003.png&n=4").await;
    assert_eq!((status, paths(&found).len()), (StatusCode::OK, 4), "{found}");
    assert!(!paths(&found).contains(&key(3)));
    for unknown in ["/search?like=apple/no.png", "/search?like=../../etc/passwd", "/search?like=%2Fetc%2Fpasswd"] {
        let (status, error) = get(&router, unknown).await;
        assert_eq!((status, error["error"].as_str()), (StatusCode::NOT_FOUND, Some("Input.UnknownKey")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_described_and_every_described_path_exists() {
    let (router, ..) = served(120).await;
    let (status, about) = get(&router, "/").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&about["version"], &about["images"], &about["index"]),
        (&1.into(), &120.into(), &true.into()),
        "{about}"
    );
    assert_eq!((&about["classifier"]["classes"], &about["limits"]["photo_bytes"]), (&3.into(), &(1 << 20).into()));
    assert_eq!(about["labels"].as_array().unwrap().len(), 3);
    let (_, described) = get(&router, "/openapi.json").await;
    assert_eq!(
        (&described["openapi"], &described["info"]["version"]),
        (&"3.1.0".into(), &env!("CARGO_PKG_VERSION").into())
    );
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(path).body(Body::empty());
            let (status, _) = answer(&router, request.unwrap()).await;
            assert!(status != StatusCode::NOT_FOUND && status != StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    // Every property of the answers is described.
    for (path, schema) in [("/", "About"), ("/search?like=apple/00001.png", "Similar")] {
        let (_, answer) = get(&router, path).await;
        let properties = &described["components"]["schemas"][schema]["properties"];
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&answer), names(properties), "{path}");
    }
    let (_, said) = send(&router, "/predict", png(1)).await;
    let properties = &described["components"]["schemas"]["Prediction"]["properties"];
    assert!(said.as_object().unwrap().keys().eq(properties.as_object().unwrap().keys()), "{said}");
}

/// A PNG that claims 60,000 x 60,000 pixels, and has few bytes.
fn bomb() -> Bytes {
    let mut file = png(1).to_vec();
    file[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let sum = crc(&file[12..29]);
    file[29..33].copy_from_slice(&sum.to_be_bytes());
    file.into()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_uploads_get_named_answers_and_the_next_photo_is_answered() {
    let (router, ..) = served(120).await;
    let cases: [(Request<Body>, u16, &str); 9] = [
        (photo("/predict", "image/png", bomb()), 422, "too_large"),
        (photo("/predict", "image/jpeg", vec![0xff; 50 << 20]), 413, "most bytes: 1048576"),
        (photo("/predict", "image/png", "this is a text"), 422, "not_an_image"),
        (photo("/predict", "image/png", png(1).slice(..60)), 422, "truncated"),
        (photo("/search", "text/plain", png(1)), 415, "content-type: text/plain"),
        (photo("/predict", "image/png", ""), 400, "no body"),
        (Request::post("/predict").body(png(1).into()).unwrap(), 415, "image/jpeg"),
        (photo("/search?n=100000", "image/png", png(1)), 400, "most: 200"),
        (photo("/predict?neighbors=3", "image/png", png(1)), 400, "neighbors"),
    ];
    for (request, expected, says) in cases {
        let (status, error) = answer(&router, request).await;
        assert_eq!((status.as_u16(), error["error"].as_str()), (expected, Some("Input.Invalid")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{says}: {error}");
        assert!(error["advice"].as_str().unwrap().ends_with('.'));
        assert_eq!(send(&router, "/predict", png(3)).await.0, StatusCode::OK);
    }
    assert_eq!(get(&router, "/predict").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(&router, "/nothing").await.0, StatusCode::NOT_FOUND);
    // The router that a Lambda mounts has no path that writes.
    for path in ["/review", "/labels.csv"] {
        assert_eq!(send(&router, path, png(1)).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_classifier_searches_and_says_why_it_does_not_predict() {
    let (input, output) = (images(0..60).await, Arc::new(MemoryStore::new()));
    let settings = pomona::dataset::settings::Settings { classifier: false, index: false, ..small_shards() };
    run(&stores(&input, &output), &engine("tiny", 2), &settings, "a").await.unwrap();
    let router = serve::api(Current::new(output, None, tiny(), 0), Limits::default(), None);
    let (status, error) = send(&router, "/predict", png(1)).await;
    assert_eq!((status, error["error"].as_str()), (StatusCode::CONFLICT, Some("Classifier.Missing")), "{error}");
    assert_eq!(paths(&send(&router, "/search?n=1", png(1)).await.1), [key(1)]);
    let (_, about) = get(&router, "/").await;
    assert_eq!((&about["classifier"], &about["index"]), (&Value::Null, &false.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_is_refused_if_the_data_set_has_another_model() {
    let (input, output) = (images(0..60).await, Arc::new(MemoryStore::new()));
    run(&stores(&input, &output), &engine("tiny", 2), &small_shards(), "a").await.unwrap();
    let other: MakeWorkers = Box::new(|_: &ExtractorInfo, _: Option<Bytes>| Ok(engine("nhwc", 1)));
    let router = serve::api(Current::new(output, None, other, 0), Limits::default(), None);
    let (status, error) = send(&router, "/search", png(1)).await;
    assert_eq!((status.as_u16(), error["error"].as_str()), (500, Some("Classifier.OtherModel")), "{error}");
    assert_eq!(get(&router, "/search?like=apple/00001.png").await.0, StatusCode::OK);
}

/// Asks without a pause until `done`, and asserts that no request fails.
async fn ask_until(router: &Router, done: impl Fn(&Value) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let (status, found) = send(router, "/search?n=200", png(9)).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        if done(&found) {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_answers_within_seconds_and_no_request_fails() {
    let (router, stores, input) = served(150).await;
    ask_until(&router, |found| found["version"] == 1).await;
    let writes = tokio::spawn(async move {
        for round in 0..3 {
            input.put(&format!("kiwi/new-{round}.png"), png(1_000 + round)).await.unwrap();
            run(&stores, &engine("tiny", 2), &small_shards(), &format!("more-{round}")).await.unwrap();
        }
    });
    ask_until(&router, |found| found["version"] == 4 && paths(found).len() == 153).await;
    writes.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_image_is_in_no_answer_five_seconds_later_also_after_a_pause() {
    let (router, stores, input) = served(150).await;
    let person = key(9);
    assert!(paths(&send(&router, "/search?n=200", png(9)).await.1).contains(&person));
    // Requests go on while files of the version are deleted.
    let asking = tokio::spawn({
        let (router, person) = (router.clone(), person.clone());
        async move { ask_until(&router, |found| !paths(found).contains(&person)).await }
    });
    input.delete(&person).await.unwrap();
    erase_image(&stores, &engine("tiny", 2), &person).await;
    let ended = Instant::now();
    asking.await.unwrap();
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    for path in ["/search?n=200", "/predict?n=200"] {
        let (status, found) = send(&router, path, png(9)).await;
        assert!(status == StatusCode::OK && !found.to_string().contains(&person), "{found}");
    }
    assert_eq!(get(&router, &format!("/search?like={person}")).await.0, StatusCode::NOT_FOUND);
}

/// A process that sleeps, as a Lambda does, looks before it answers.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_a_pause_is_answered_by_the_newest_version() {
    let (router, stores, input) = served(120).await;
    assert_eq!(get(&router, "/").await.1["version"], 1);
    input.put("kiwi/new.png", png(5_000)).await.unwrap();
    run(&stores, &engine("tiny", 2), &small_shards(), "b").await.unwrap();
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(paths(&send(&router, "/search?n=1", png(5_000)).await.1), ["kiwi/new.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_without_a_version_is_served_from_its_first_run_on() {
    let (input, output) = (images(0..120).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    let router = serve::api(Current::new(output, None, tiny(), 0), Limits::default(), None);
    let (status, error) = get(&router, "/").await;
    assert_eq!((status.as_u16(), error["error"].as_str()), (503, Some("Output.NoVersion")), "{error}");
    assert_eq!(send(&router, "/predict", png(1)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    run(&stores, &engine("tiny", 2), &small_shards(), "a").await.unwrap();
    assert_eq!(get(&router, "/").await.1["version"], 1);
    assert_eq!(send(&router, "/predict", png(1)).await.0, StatusCode::OK);
}

/// Photos in memory. An offer says what the client should put.
#[derive(Debug, Default)]
struct Photos(Mutex<BTreeMap<String, Bytes>>);

#[async_trait::async_trait]
impl Uploads for Photos {
    async fn offer(&self, bytes: usize) -> pomona::Result<Offer> {
        let upload = format!("{:032x}", self.0.lock().unwrap().len() + 1);
        Ok(Offer { url: format!("memory:{upload}"), upload, method: "PUT", bytes, seconds: 60 })
    }

    async fn get(&self, upload: &str) -> pomona::Result<Bytes> {
        let photo = self.0.lock().unwrap().get(upload).cloned();
        photo.ok_or_else(|| Error::new(ErrorKind::StoreNotFound, "no such photo"))
    }

    async fn delete(&self, upload: &str) -> pomona::Result<()> {
        self.0.lock().unwrap().remove(upload);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_photo_is_answered_as_one_in_the_body_and_then_deleted() {
    let (_, stores, _) = served(120).await;
    let current = Current::new(Arc::clone(&stores.output), None, tiny(), 0);
    let photos = Arc::new(Photos::default());
    let limits = Limits { upload_bytes: 1 << 20, photo_bytes: 16, ..Limits::default() };
    let router = serve::api(current, limits, Some(Arc::clone(&photos) as Arc<dyn Uploads>));
    let photo = png(7);
    for path in ["/predict?n=3", "/search?n=3"] {
        // Too large for a body.
        assert_eq!(send(&router, path, photo.clone()).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        let (status, offer) = send(&router, &format!("/uploads?bytes={}", photo.len()), Bytes::new()).await;
        assert_eq!((status, &offer["bytes"]), (StatusCode::OK, &photo.len().into()), "{offer}");
        let upload = offer["upload"].as_str().unwrap().to_owned();
        let path = format!("{path}&upload={upload}");
        let (status, error) = send(&router, &path, Bytes::new()).await;
        assert_eq!((status.as_u16(), error["error"].as_str()), (404, Some("Input.UnknownKey")), "{error}");
        photos.0.lock().unwrap().insert(upload, photo.clone());
        let (status, found) = send(&router, &path, Bytes::new()).await;
        assert!(status == StatusCode::OK && found.to_string().contains(&key(7)), "{found}");
        assert!(photos.0.lock().unwrap().is_empty());
    }
    for (path, status) in [
        ("/uploads?bytes=0", 400),
        ("/uploads?bytes=1048577", 413),
        ("/uploads", 400),
        ("/predict?upload=../versions/00000001.json", 400),
        ("/search?upload=", 400),
    ] {
        assert_eq!(send(&router, path, Bytes::new()).await.0.as_u16(), status, "{path}");
    }
    let (_, described) = get(&router, "/openapi.json").await;
    assert!(described["paths"]["/uploads"]["post"].is_object());
    for path in ["/predict", "/search"] {
        let post = &described["paths"][path]["post"];
        assert!(post["parameters"].to_string().contains("\"upload\"") && post["requestBody"]["required"] == false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn photos_are_not_uploaded_where_there_is_no_place_for_them() {
    let (router, ..) = served(120).await;
    assert_eq!(send(&router, "/uploads?bytes=1", Bytes::new()).await.0, StatusCode::NOT_FOUND);
    let (status, error) = send(&router, &format!("/predict?upload={:032x}", 1), Bytes::new()).await;
    assert!(status == StatusCode::BAD_REQUEST && error["message"].as_str().unwrap().contains("uploaded"), "{error}");
    assert!(get(&router, "/openapi.json").await.1["paths"].get("/uploads").is_none());
}
