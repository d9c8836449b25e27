//! `pomona serve`: what the page reads and writes, and who may ask.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::asking::tiny;
use crate::common::*;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use pomona::{
    dataset::{self, keys, labelling, lease::Judge, review, settings::Settings},
    serve::{self, Current, Limits},
    stages::{Silent, Stores},
    store::{FolderStore, Store, list_all},
    versions::{
        check::{Depth, check},
        vacuum::{Action, Policy, vacuum},
    },
};
use serde_json::{Value, json};
use tower::ServiceExt;

const PORT: u16 = 4711;
/// A folder that is a formula, quotes, markup.
const HOSTILE: &str = "=cmd|' \"x\"'!A1 <img src=x onerror=alert(1)>/1.png";

/// A data set in folders, and the page of its newest version.
struct Served {
    folder: tempfile::TempDir,
    stores: Stores,
    router: Router,
}

impl Served {
    async fn new(settings: &Settings) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let images = FolderStore::new(folder.path().join("images"));
        for i in 0..120 {
            images.put(&key(i), png(i)).await.unwrap();
        }
        // Twice the same, under two labels.
        images.put("kiwi/copy.png", png(7)).await.unwrap();
        images.put(HOSTILE, png(900)).await.unwrap();
        images.put("apple/broken.png", "no image".into()).await.unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let stores = Stores::open(&place("images"), &place("results")).await.unwrap();
        run(&stores, &engine("tiny", 2), settings, "a").await.unwrap();
        let router = page(&stores).await;
        Served { folder, stores, router }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn request(&self, method: Method, path: &str, body: Body) -> (StatusCode, HeaderMap, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{PORT}"))
            .header(header::CONTENT_TYPE, "application/json");
        asked(&self.router, request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.request(Method::GET, path, Body::empty()).await
    }

    async fn json(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    async fn text(&self, path: &str) -> String {
        String::from_utf8(self.get(path).await.2.to_vec()).unwrap()
    }

    /// Sets a label; the answer.
    async fn review(&self, path: &str, label: &str) -> (StatusCode, Value) {
        let body = json!({"path": path, "label": label}).to_string();
        let (status, _, body) = self.request(Method::POST, "/api/review", body.into()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }
}

async fn page(stores: &Stores) -> Router {
    serve::local(Current::new(stores.output.clone(), None, tiny(), 0), Limits::default(), PORT)
}

async fn asked(router: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap())
}

/// All files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let files = entries
        .filter(|entry| entry.file_type().is_file() && !entry.path().to_string_lossy().contains("/results/.tmp/"));
    files.map(|entry| (entry.path().display().to_string(), std::fs::read(entry.path()).unwrap())).collect()
}

fn escaped(path: &str) -> String {
    path.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_points_are_all_images_in_key_order_with_their_scores_and_labels() {
    let served = Served::new(&small_shards()).await;
    let (status, headers, body) = served.get("/api/points").await;
    assert_eq!(
        (status, &headers[header::CONTENT_TYPE]),
        (StatusCode::OK, &"application/octet-stream".parse().unwrap())
    );
    let length = u32::from_le_bytes(body[..4].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&body[4..4 + length]).unwrap();
    assert_eq!((&head["images"], &head["version"], &head["name"]), (&122.into(), &1.into(), &"images".into()));
    let start = (4 + length).next_multiple_of(4);
    assert_eq!(body.len(), start + 14 * 122);
    let float = |at: usize| f32::from_le_bytes(body[start + 4 * at..start + 4 * at + 4].try_into().unwrap());
    let manifest = dataset::current(served.stores.output.as_ref()).await.unwrap().unwrap();
    let mut expected = Vec::new();
    for part in dataset::contents::parts(served.stores.output.as_ref(), &manifest).await.unwrap() {
        let file = part.scores[0].read(served.stores.output.as_ref()).await.unwrap();
        let rows = dataset::tables::read_scores(file, manifest.basis.components, "scores").unwrap();
        expected
            .extend(rows.paths.into_iter().zip(rows.labels).zip(rows.scores.outer_iter().map(|row| (row[0], row[1]))));
    }
    for (row, ((path, label), scores)) in expected.into_iter().enumerate() {
        assert_eq!((float(row), float(122 + row)), scores);
        let number = float(244 + row).to_bits() as usize;
        assert_eq!(head["labels"][number].as_str().map(str::to_owned), label);
        let image = served.json(&format!("/api/details?row={row}&version=1")).await["image"].clone();
        assert_eq!((image["path"].as_str(), image["label"].as_str()), (Some(path.as_str()), label.as_deref()));
    }
    assert_eq!(served.get("/api/details?row=3&version=2").await.0, StatusCode::CONFLICT);
    assert_eq!(served.get("/api/details?row=122&version=1").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_by_text_and_label_in_parts() {
    let served = Served::new(&small_shards()).await;
    let found = served.json("/api/images?text=KIWI/").await;
    assert_eq!((&found["total"], &found["rows"][0]["label"]), (&1.into(), &"kiwi".into()));
    let apples = served.json("/api/images?label=apple&limit=7&offset=45").await;
    assert_eq!((&apples["total"], apples["rows"].as_array().unwrap().len()), (&50.into(), 5));
    assert_eq!(served.json("/api/images?label=apple&text=0001").await["total"], 11);
    assert_eq!(served.json("/api/images?label=nothing").await["total"], 0);
    assert_eq!(served.get("/api/images?nothing=1").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_shown_and_downloaded_without_formulas() {
    let served = Served::new(&Settings { duplicate_distance: Some(0.0), ..small_shards() }).await;
    let groups = served.json("/api/duplicates?across=labels").await;
    assert_eq!((&groups["total"], &groups["rows"][0]["paths"]), (&1.into(), &json!([key(7), "kiwi/copy.png"])));
    assert_eq!(served.json("/api/duplicates?across=splits").await["total"], 0);
    let rejects = served.json("/api/rejects").await;
    assert_eq!(
        rejects["rows"],
        json!([{"path": "apple/broken.png", "reason": "not_an_image", "detail": rejects["rows"][0]["detail"]}])
    );
    let suspects = served.json("/api/suspects").await;
    let probabilities: Vec<f64> = suspects["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["label_probability"].as_f64().unwrap_or(1.0))
        .collect();
    assert!(probabilities.is_sorted());
    for (name, list) in [("duplicates", &groups), ("suspects", &suspects), ("rejects", &rejects)] {
        let (status, headers, body) = served.get(&format!("/api/{name}.csv")).await;
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (StatusCode::OK, &"text/csv; charset=utf-8".parse().unwrap())
        );
        assert_eq!(headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{name}.csv\""));
        let mut reader = csv::Reader::from_reader(&body[..]);
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let expected = if name == "duplicates" { 2 } else { list["total"].as_u64().unwrap() as usize };
        assert_eq!(rows.len(), expected, "{name}");
        assert!(rows.iter().flatten().all(|cell| !cell.starts_with(['=', '+', '-', '@'])), "{rows:?}");
    }
    assert!(served.text("/api/outliers.csv").await.starts_with("path,label,distance\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_images_of_the_version_have_pictures_and_they_are_made_anew() {
    let served = Served::new(&small_shards()).await;
    std::fs::write(served.file("images/secret.png"), png(1)).unwrap();
    std::fs::write(served.file("secret.png"), png(1)).unwrap();
    let (status, headers, body) = served.get(&format!("/api/image?path={}&side=64", escaped(HOSTILE))).await;
    assert_eq!((status, &headers[header::CONTENT_TYPE]), (StatusCode::OK, &"image/jpeg".parse().unwrap()));
    assert_eq!(
        (&headers["x-content-type-options"], &headers["cache-control"]),
        (&"nosniff".parse().unwrap(), &"no-store".parse().unwrap())
    );
    assert_eq!(image::load_from_memory(&body).unwrap().to_rgb8().dimensions(), (16, 12));
    let outside = [
        "../secret.png",
        "images/../secret.png",
        "secret.png",
        "apple/../secret.png",
        "/etc/passwd",
        "apple/broken.png",
        "..\\secret.png",
        "apple/00001.png\0",
        "./apple/00001.png",
        "apple//00001.png",
        "",
    ];
    for path in outside {
        let (status, _, body) = served.get(&format!("/api/image?path={}", escaped(path))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {}", String::from_utf8_lossy(&body));
        assert!(body.starts_with(b"{\"error\":\"Input.UnknownKey\""));
    }
    for path in ["/../secret.png", "/api/../../secret.png", "/%2e%2e/secret.png", "/results/pomona.json"] {
        assert_eq!(served.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(served.get("/api/image?path=apple/00001.png&side=100000").await.0, StatusCode::BAD_REQUEST);
    std::fs::remove_file(served.file("images/apple/00002.png")).unwrap();
    assert_eq!(served.get("/api/image?path=apple/00002.png").await.0, StatusCode::NOT_FOUND);
    // What is no image any more is not passed through.
    std::fs::write(served.file("images/apple/00003.png"), "<svg onload=alert(1)>").unwrap();
    let (status, _, body) = served.get("/api/image?path=apple/00003.png").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && !body.starts_with(b"<"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_other_hosts_and_from_other_origins_are_refused() {
    let served = Served::new(&small_shards()).await;
    let own = format!("127.0.0.1:{PORT}");
    let ask = async |headers: &[(&str, &str)], path: &str| {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        asked(&served.router, request.body(Body::empty()).unwrap()).await
    };
    let refused: [&[(&str, &str)]; 10] = [
        &[],
        &[("host", "evil.example")],
        &[("host", "127.0.0.1")],
        &[("host", "127.0.0.1:80")],
        &[("host", "127.0.0.1:4711.evil.example")],
        &[("host", &own), ("host", "evil.example")],
        &[("host", &own), ("origin", "http://evil.example")],
        &[("host", &own), ("origin", "null")],
        &[("host", &own), ("origin", "https://127.0.0.1:4711")],
        &[("host", &own), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    ];
    for headers in refused {
        for path in ["/", "/api", "/api/points", "/api/image?path=apple/00001.png", "/nothing"] {
            let (status, _, body) = ask(headers, path).await;
            assert!(
                status == StatusCode::FORBIDDEN && body.starts_with(b"{\"error\":\"Input.Invalid\""),
                "{headers:?} {path}"
            );
        }
    }
    let (status, ..) = ask(&[("host", "evil.example")], "http://127.0.0.1:4711/").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let allowed: [&[(&str, &str)]; 4] = [
        &[("host", &own)],
        &[("host", "localhost:4711"), ("origin", "http://localhost:4711"), ("sec-fetch-site", "same-origin")],
        &[("host", &own), ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
        // A link on another page.
        &[("host", &own), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
    ];
    for headers in allowed {
        let (status, answered, body) = ask(headers, "/").await;
        assert!(status == StatusCode::OK && body.starts_with(b"<!doctype html>"), "{headers:?}");
        let policy = answered["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (&answered["x-frame-options"], &answered["x-content-type-options"]),
            (&"DENY".parse().unwrap(), &"nosniff".parse().unwrap())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_path_exists() {
    let served = Served::new(&small_shards()).await;
    let described = served.json("/api/openapi.json").await;
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() > 16 && paths.contains_key("/predict") && paths.contains_key("/review"));
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = format!("/api{}", path.trim_end_matches('/'));
            let (status, _, body) = served.request(method, &path, Body::empty()).await;
            let known = status != StatusCode::METHOD_NOT_ALLOWED
                && !body.starts_with(b"{\"error\":\"Input.Invalid\",\"message\":\"there is nothing");
            assert!(known, "{path}: {}", String::from_utf8_lossy(&body));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewed_label_is_used_by_the_next_run_and_nothing_else_is_written() {
    let served = Served::new(&small_shards()).await;
    let before = files(served.folder.path());
    for path in ["/", "/api", "/api/points", "/api/duplicates", "/api/outliers.csv", "/api/search?like=apple/00001.png"]
    {
        assert_eq!(served.get(path).await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(files(served.folder.path()), before);
    assert_eq!(served.review("apple/00001.png", "pear").await.0, StatusCode::OK);
    assert_eq!(served.review("apple/00002.png", "Äpfel rot").await.0, StatusCode::OK);
    let (_, answer) = served.review(HOSTILE, "it's \"a\", <b>").await;
    assert_eq!(answer["rows"].as_array().unwrap().len(), 3, "{answer}");
    assert!(answer["command"].as_str().unwrap().ends_with("/results/labels.csv"), "{answer}");
    let (status, _, body) = served.request(Method::DELETE, "/api/review?path=apple/00002.png", Body::empty()).await;
    assert!(status == StatusCode::OK && !String::from_utf8_lossy(&body).contains("00002"));

    let mut after = files(served.folder.path());
    let written = after.remove(&served.file("results/labels.csv").display().to_string()).unwrap();
    assert_eq!(after, before);
    assert_eq!(served.text("/api/labels.csv").await.as_bytes(), written);
    assert_eq!(served.json("/api/details?path=apple/00001.png").await["reviewed"], "pear");

    let given = labelling::read(&written, "labels.csv", "").unwrap();
    let labels = labelling::store(served.stores.output.as_ref(), &given).await.unwrap();
    let settings = Settings { labels: Some(labels), ..small_shards() };
    run(&served.stores, &engine("tiny", 2), &settings, "b").await.unwrap();
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    for (path, label) in [("apple/00001.png", "pear"), ("apple/00002.png", "apple"), (HOSTILE, "it's \"a\", <b>")] {
        let shown = served.json(&format!("/api/details?path={}", escaped(path))).await;
        assert_eq!((&shown["version"], &shown["image"]["label"]), (&2.into(), &label.into()));
    }
    // The file of that version has these rows already. With another one, it has all.
    assert_eq!(served.json("/api/review").await["rows"], json!([]));
    served.review("apple/00004.png", "pear").await;
    assert_eq!(review::read(served.stores.output.as_ref()).await.unwrap().len(), 3);
    assert_eq!(served.json("/api/review").await["rows"], json!([{"path": "apple/00004.png", "label": "pear"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_could_do_something_and_unknown_images_change_nothing() {
    let served = Served::new(&small_shards()).await;
    for label in [
        "=1+1",
        "@SUM(A1)",
        "-1",
        "+1",
        "a\nb,c",
        "a\r\nkiwi/copy.png,x",
        "\u{202e}a",
        "",
        " ",
        "a/../b",
        &"x".repeat(300),
    ] {
        let (status, error) = served.review("apple/00001.png", label).await;
        assert_eq!((status, &error["error"]), (StatusCode::BAD_REQUEST, &"Input.Invalid".into()), "{label:?}");
    }
    for path in ["apple/none.png", "../images/apple/00001.png", "labels.csv", ""] {
        assert_eq!(served.review(path, "pear").await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for body in [
        "",
        "[]",
        "{\"path\": 1}",
        "{\"path\": \"apple/00001.png\", \"label\": \"x\", \"more\": 1}",
        &"x".repeat(1 << 20),
    ] {
        let (status, ..) = served.request(Method::POST, "/api/review", body.to_owned().into()).await;
        assert!(status.is_client_error(), "{body}");
    }
    // A form of another page cannot send this type without asking.
    let form =
        Request::post("/api/review").header("host", format!("localhost:{PORT}")).header("content-type", "text/plain");
    let body = json!({"path": "apple/00001.png", "label": "pear"}).to_string();
    assert_eq!(asked(&served.router, form.body(body.into()).unwrap()).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(!served.file("results/labels.csv").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_image_leaves_the_page_and_the_reviewed_labels() {
    let served = Served::new(&small_shards()).await;
    let person = key(9);
    served.review(&person, "pear").await;
    served.review(&key(10), "pear").await;
    let output = served.stores.output.as_ref();
    let policy = Policy { keep_versions: 1, older_than_days: 0 };
    vacuum(output, policy, Action::Delete, Judge::default(), &|_| ()).await.unwrap();
    let checked = check(output, Depth::Files, Judge::default(), &Silent).await.unwrap();
    assert!(checked.problems.is_empty() && checked.unknown.is_empty(), "{checked:?}");
    assert_eq!(review::read(output).await.unwrap().len(), 2);

    std::fs::remove_file(served.file("images").join(&person)).unwrap();
    let done = erase_image(&served.stores, &engine("tiny", 2), &person).await;
    assert!(done.checked.contains(&keys::REVIEW.to_owned()));
    assert_eq!(review::read(output).await.unwrap().into_keys().collect::<Vec<_>>(), [key(10)]);
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    for path in
        ["/api/images?limit=1000", "/api/review", "/api/suspects?limit=1000", "/api/duplicates", "/api/outliers"]
    {
        assert!(!served.text(path).await.contains(&person), "{path}");
    }
    assert_eq!(served.get(&format!("/api/image?path={person}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(served.review(&person, "pear").await.0, StatusCode::NOT_FOUND);
    for object in list_all(output, "").await.unwrap() {
        let body = output.get(&object.key).await.unwrap();
        assert!(!body.windows(person.len()).any(|part| part == person.as_bytes()), "{}", object.key);
    }
    output.put(keys::REVIEW, "file,class\n".into()).await.unwrap();
    let checked = check(output, Depth::Files, Judge::default(), &Silent).await.unwrap();
    assert_eq!(checked.problems.iter().map(|problem| problem.file.as_str()).collect::<Vec<_>>(), [keys::REVIEW]);
    assert_eq!(served.get("/api/review").await.0, StatusCode::BAD_REQUEST);
}
