//! A search of every byte of an output for erased images.
//!
//! It shares no code with the tables and records that the output consists of: it lists all files, decodes Parquet files
//! with the Parquet library alone (all columns, statistics and metadata), and searches all other files as text. So it
//! also finds what the rest of the program does not know about.

mod cells;
mod contents;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use cells::{each_batch, is_searched, texts, vectors};
use contents::{embedded, text_of};

use crate::{
    Result,
    dataset::blocking::run_blocking,
    pipeline::{Phase, Watcher},
    store::{self, Store},
};

/// Files that are read at the same time.
const CONCURRENCY: usize = 4;
/// Features with fewer numbers other than zero are those of any picture of one colour: they are no trace of an image, and
/// bytes like these occur anywhere.
const FEWEST_NUMBERS: usize = 4;

/// A file that was not searched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unsearched {
    /// Its key, relative to the output.
    pub file: String,
    /// Why it cannot hold an image's path or features.
    pub reason: String,
}

/// The images to search for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Forms in which each path may be written, by path.
    forms: BTreeMap<String, Vec<Vec<u8>>>,
    /// Features of the images, as little-endian bytes. The search collects them from the rows that it finds.
    features: HashSet<Vec<u8>>,
    /// Other paths of the output that contain a wanted path: `a b.jpg` contains `b.jpg`.
    longer: BTreeSet<Vec<u8>>,
}

/// Result of a search.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Files with each path, by path.
    pub(super) paths: BTreeMap<String, BTreeSet<String>>,
    /// Files with features of the images, but without their path.
    pub(super) features: BTreeSet<String>,
    /// Features of the images.
    vectors: HashSet<Vec<u8>>,
    /// All files that were read.
    pub(super) read: BTreeSet<String>,
    pub(super) unsearched: BTreeSet<Unsearched>,
}

impl Found {
    /// All files in which anything was found.
    pub(super) fn files(&self) -> BTreeSet<String> {
        self.paths.values().flatten().chain(&self.features).cloned().collect()
    }

    fn add(&mut self, other: Found) {
        for (path, files) in other.paths {
            self.paths.entry(path).or_default().extend(files);
        }
        self.features.extend(other.features);
        self.vectors.extend(other.vectors);
        self.read.extend(other.read);
        self.unsearched.extend(other.unsearched);
    }
}

impl Wanted {
    pub(super) fn new(paths: &BTreeSet<String>) -> Self {
        let forms = paths.iter().map(|path| (path.clone(), forms(path))).collect();
        Wanted { forms, ..Wanted::default() }
    }

    /// Adds the features of the images that a search has found.
    pub(super) fn learn(&mut self, found: &Found) {
        let says_enough =
            |vector: &&Vec<u8>| vector.chunks(4).filter(|number| *number != [0; 4]).count() >= FEWEST_NUMBERS;
        self.features.extend(found.vectors.iter().filter(says_enough).cloned());
    }

    /// [`Wanted::search`], in which features that another image has too are no trace: the mean of a class of copies is the
    /// features of each of them.
    pub(super) async fn search_traces(
        &mut self,
        output: &dyn Store,
        known: &BTreeSet<String>,
        watcher: &dyn Watcher,
    ) -> Result<Found> {
        let (found, before) = (self.search(output, known, watcher).await?, self.features.len());
        if !found.features.is_empty() {
            self.forget_shared(output).await?;
        }
        if self.features.len() == before { Ok(found) } else { self.search(output, known, watcher).await }
    }

    /// Forgets the features that other images of the output have too.
    async fn forget_shared(&mut self, output: &dyn Store) -> Result<()> {
        let files = store::list_all(output, "").await?.into_iter().map(|object| object.key).filter(|key| is_table(key));
        let this = Arc::new(self.clone());
        for file in files {
            let this = this.clone();
            for vector in of_batches(output, &file, move |batch| this.shared(batch)).await? {
                self.features.remove(&vector);
            }
        }
        Ok(())
    }

    /// The features among those of the images that rows of other images have.
    fn shared(&self, batch: &RecordBatch) -> Vec<Vec<u8>> {
        let Some(paths) = batch.column_by_name("path") else { return Vec::new() };
        let wanted = |path: &Vec<u8>| self.forms.keys().any(|known| known.as_bytes() == path);
        let others: Vec<bool> = texts(paths.as_ref()).map(|path| !path.is_empty() && !wanted(&path)).collect();
        let is_other = |row: usize| others.get(row).copied().unwrap_or(false);
        let rows = batch.columns().iter().flat_map(|column| vectors(column.as_ref()));
        rows.filter(|(row, vector)| is_other(*row) && self.features.contains(vector))
            .map(|(_, vector)| vector)
            .collect()
    }

    /// Searches all files of the output, except for those in `known`, which an earlier search has read.
    pub(super) async fn search(
        &mut self,
        output: &dyn Store,
        known: &BTreeSet<String>,
        watcher: &dyn Watcher,
    ) -> Result<Found> {
        let listed = store::list_all(output, "").await?;
        let files: Vec<String> =
            listed.into_iter().map(|object| object.key).filter(|key| !known.contains(key)).collect();
        // Whether an occurrence is a part of another path is known after the tables have been read.
        let tables: Vec<&String> = files.iter().filter(|file| is_table(file)).collect();
        let started = std::time::Instant::now();
        watcher.begin(Phase::Search, Some((files.len() + tables.len()) as u64));
        let reads: Vec<_> = tables.iter().map(|file| self.longer_paths(output, file, watcher)).collect();
        let longer: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENCY).try_collect().await?;
        let longer = longer.into_iter().flatten().filter_map(|path| String::from_utf8(path).ok());
        self.longer.extend(longer.flat_map(|path| forms(&path)));
        let shared = Arc::new(self.clone());
        let reads: Vec<_> = files.iter().map(|file| shared.in_file(output, file, watcher)).collect();
        let mut answers = stream::iter(reads).buffer_unordered(CONCURRENCY);
        let mut found = Found::default();
        while let Some(answer) = answers.try_next().await? {
            found.add(answer);
        }
        watcher.end(Phase::Search, started.elapsed());
        Ok(found)
    }

    /// Texts of a table that contain a wanted path and are longer.
    async fn longer_paths(&self, output: &dyn Store, file: &str, watcher: &dyn Watcher) -> Result<Vec<Vec<u8>>> {
        let paths: Vec<Vec<u8>> = self.forms.keys().map(|path| path.as_bytes().to_vec()).collect();
        let longer = of_batches(output, file, move |batch| {
            // Texts of other columns are not paths: only a path excuses an occurrence.
            let Some(column) = batch.column_by_name("path") else { return Vec::new() };
            let contains = |text: &Vec<u8>| {
                paths.iter().any(|path| text.len() > path.len() && find(text, path, 0).is_some())
                    && !paths.contains(text)
            };
            texts(column.as_ref()).filter(contains).collect()
        });
        let longer = longer.await?;
        watcher.part_done();
        Ok(longer)
    }

    async fn in_file(self: &Arc<Self>, output: &dyn Store, file: &str, watcher: &dyn Watcher) -> Result<Found> {
        let mut found = Found::default();
        self.in_text(file.as_bytes(), file, &mut found);
        let Some(body) = store::get_opt(output, file).await? else { return Ok(found) };
        let (this, name) = (Arc::clone(self), file.to_owned());
        let found = run_blocking(move || {
            if name.ends_with(".png") {
                let reason = "a picture: its pixels are drawn from scores, it holds no text".to_owned();
                found.unsearched.insert(Unsearched { file: name.clone(), reason });
            } else if !is_table(&name) || !this.in_table(body.clone(), &name, &mut found) {
                this.in_text(text_of(&name, &body), &name, &mut found);
                this.for_features(&body, &name, &mut found);
                for content in embedded(&name, &body) {
                    this.in_text(&content, &name, &mut found);
                    this.for_features(&content, &name, &mut found);
                }
            }
            found.read.insert(name);
            Ok(found)
        });
        watcher.part_done();
        found.await
    }

    /// Searches bytes for each path as a whole token.
    fn in_text(&self, text: &[u8], file: &str, found: &mut Found) {
        for (path, forms) in &self.forms {
            if forms.iter().any(|form| self.has_token(text, form)) {
                found.paths.entry(path.clone()).or_default().insert(file.to_owned());
            }
        }
    }

    /// Searches bytes for the features.
    fn for_features(&self, bytes: &[u8], file: &str, found: &mut Found) {
        if self.features.iter().any(|vector| find(bytes, vector, 0).is_some()) {
            found.features.insert(file.to_owned());
        }
    }

    /// Whether `token` stands in the text, neither within a word nor within a longer path of the output.
    fn has_token(&self, text: &[u8], token: &[u8]) -> bool {
        let mut from = 0;
        while let Some(at) = find(text, token, from) {
            let (before, after) = (&text[..at], &text[at + token.len()..]);
            if !continues_backwards(before) && !continues(after) && !self.is_in_longer(text, at, token) {
                return true;
            }
            from = at + 1;
        }
        false
    }

    fn is_in_longer(&self, text: &[u8], at: usize, token: &[u8]) -> bool {
        self.longer.iter().any(|longer| {
            let mut from = 0;
            while let Some(offset) = find(longer, token, from) {
                if at >= offset && text[at - offset..].starts_with(longer) {
                    return true;
                }
                from = offset + 1;
            }
            false
        })
    }

    /// Searches a Parquet file: all cells, the statistics and the metadata. False if it is not a Parquet file.
    fn in_table(&self, body: Bytes, file: &str, found: &mut Found) -> bool {
        let Ok(reader) = ParquetRecordBatchReaderBuilder::try_new(body.clone()) else { return false };
        let metadata = reader.metadata().clone();
        for pair in metadata.file_metadata().key_value_metadata().into_iter().flatten() {
            self.in_text(pair.key.as_bytes(), file, found);
            self.in_text(pair.value.as_deref().unwrap_or_default().as_bytes(), file, found);
        }
        let statistics = metadata.row_groups().iter().flat_map(|group| group.columns()).filter_map(|c| c.statistics());
        for bytes in statistics.flat_map(|s| [s.min_bytes_opt(), s.max_bytes_opt()]).flatten() {
            self.in_text(bytes, file, found);
        }
        let mut unsearched: Vec<String> = Vec::new();
        for field in reader.schema().fields().iter().filter(|field| !is_searched(field.data_type())) {
            unsearched.push(format!("{} ({})", field.name(), field.data_type()));
        }
        if !unsearched.is_empty() {
            // Nothing that Pomona writes.
            let reason = format!("columns of types that are not searched: {}", unsearched.join(", "));
            found.unsearched.insert(Unsearched { file: file.to_owned(), reason });
        }
        each_batch(body, |batch| self.in_batch(batch, file, found)).is_ok()
    }

    fn in_batch(&self, batch: &RecordBatch, file: &str, found: &mut Found) {
        let mut rows: BTreeSet<usize> = BTreeSet::new();
        for column in batch.columns() {
            for (row, text) in texts(column.as_ref()).enumerate() {
                if self.forms.keys().any(|path| path.as_bytes() == text) {
                    rows.insert(row);
                }
                self.in_text(&text, file, found);
            }
        }
        // Another image may have the same features: the same file under another name.
        let named = batch.column_by_name("path").is_some();
        for column in batch.columns() {
            for (row, vector) in vectors(column.as_ref()) {
                if rows.contains(&row) {
                    found.vectors.insert(vector);
                } else if !named && self.features.contains(&vector) {
                    found.features.insert(file.to_owned());
                }
            }
        }
    }
}

/// What a function finds in the batches of a table; nothing if it is gone. What comes before an error of the decoder counts.
async fn of_batches<T: Send + 'static>(
    output: &dyn Store,
    file: &str,
    of_batch: impl Fn(&RecordBatch) -> Vec<T> + Send + 'static,
) -> Result<Vec<T>> {
    let Some(body) = store::get_opt(output, file).await? else { return Ok(Vec::new()) };
    run_blocking(move || {
        let mut all = Vec::new();
        let _ = each_batch(body, |batch| all.extend(of_batch(batch)));
        Ok(all)
    })
    .await
}

fn is_table(file: &str) -> bool {
    file.ends_with(".parquet")
}

/// Forms in which a path may be written: as it is, in JSON, HTML and CSV, in a URL, and escaped for a terminal.
fn forms(path: &str) -> Vec<Vec<u8>> {
    const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    const QUERY: &AsciiSet = &URL.add(b'/');
    const SPACES: &AsciiSet = &CONTROLS.add(b' ');
    let json = serde_json::to_string(path).unwrap_or_default();
    let html = path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let forms = [
        path.to_owned(),
        json[1..json.len() - 1].to_owned(),
        html.replace('"', "&quot;"),
        html.replace('"', "&quot;").replace('\'', "&#39;"),
        path.replace('"', "\"\""),
        utf8_percent_encode(path, URL).to_string(),
        utf8_percent_encode(path, QUERY).to_string(),
        utf8_percent_encode(path, NON_ALPHANUMERIC).to_string(),
        utf8_percent_encode(path, SPACES).to_string(),
        utf8_percent_encode(path, URL).to_string().replace("%20", "+"),
        path.chars().map(shown).collect(),
    ];
    let forms: BTreeSet<Vec<u8>> = forms.into_iter().map(String::into_bytes).collect();
    forms.into_iter().collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte >= 0x80
}

/// Whether the word before a token belongs to it. A slash does not count: the path may follow a folder.
fn continues_backwards(before: &[u8]) -> bool {
    before.last().is_some_and(|byte| is_word(*byte) || *byte == b'.')
}

/// Whether a token goes on after its end. A full stop counts if a word follows it.
fn continues(after: &[u8]) -> bool {
    match after {
        [b'.', next, ..] => is_word(*next),
        [next, ..] => is_word(*next) || *next == b'/',
        [] => false,
    }
}

/// Position of the first `needle` at or after `from`.
fn find(text: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find(text.get(from..)?, needle).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_searched_are_in_the_order_of_their_keys() {
        let file = |name: &str| Unsearched { file: name.to_owned(), reason: "a picture".to_owned() };
        let mut found = Found::default();
        // Files are read side by side: the last may be the first that ends.
        for name in ["b.png", "a.png"] {
            found.add(Found { unsearched: [file(name)].into(), ..Found::default() });
        }
        assert!(found.unsearched.iter().map(|file| &file.file).is_sorted());
    }

    fn holds(path: &str, text: &str, longer: &[&str]) -> bool {
        let mut wanted = Wanted::new(&BTreeSet::from([path.to_owned()]));
        wanted.longer = longer.iter().map(|path| path.as_bytes().to_vec()).collect();
        let mut found = Found::default();
        wanted.in_text(text.as_bytes(), "f", &mut found);
        !found.paths.is_empty()
    }

    #[test]
    fn a_path_is_found_as_a_whole_token_in_any_form() {
        for text in [
            "l1/1.jpg",
            "{\"path\":\"l1/1.jpg\"}",
            "cannot read (path: /home/me/photos/l1/1.jpg).",
            "<td>l1/1.jpg</td>",
            "key=l1%2F1.jpg&x",
        ] {
            assert!(holds("l1/1.jpg", text, &[]), "{text}");
        }
        for text in ["l1/11.jpg", "al1/1.jpg", "l1/1.jpgx", "l1/1.jpg.bak", "l1/1.jpg/x", "l1/1", ""] {
            assert!(!holds("l1/1.jpg", text, &[]), "{text}");
        }
        assert!(holds("a & <b>.jpg", "<td>a &amp; &lt;b&gt;.jpg</td>", &[]));
        assert!(holds("say \"hi\".jpg", r#"{"key":"say \"hi\".jpg"}"#, &[]));
        assert!(holds("Äpfel 1.jpg", "%C3%84pfel%201.jpg", &[]));
    }

    #[test]
    fn features_of_a_picture_of_one_colour_are_not_searched() {
        let mut wanted = Wanted::new(&BTreeSet::from(["a.jpg".to_owned()]));
        let bytes = |numbers: [f32; 8]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let image = bytes([0.0, 0.5, 0.0, 0.0, 0.25, 0.125, 0.125, 0.0]);
        let vectors = HashSet::from([bytes([0.0; 8]), bytes([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), image.clone()]);
        wanted.learn(&Found { vectors, ..Found::default() });
        assert_eq!(wanted.features, HashSet::from([image]));
    }

    #[test]
    fn a_part_of_another_path_is_no_occurrence() {
        assert!(holds("b.jpg", "a b.jpg", &[]));
        assert!(!holds("b.jpg", "{\"path\": \"a b.jpg\"}", &["a b.jpg"]));
        assert!(holds("b.jpg", "a b.jpg, b.jpg", &["a b.jpg"]));
        assert!(!holds("l1/1.jpg", "x/l1/1.jpg", &["x/l1/1.jpg"]));
    }
}
