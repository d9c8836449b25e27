//! Duplicates and outliers, computed again from features and scores.

use bytes::Bytes;

use super::{Fault, Survey};
use crate::{
    Result,
    dataset::{
        Checksum, FileRef, Manifest, contents,
        tables::{read_duplicates, read_outliers},
    },
    stages::{self, DuplicatesOf, OutliersOf},
    store::Store,
};

/// Keys and contents of the files of a version's duplicates, made again. Fails with `Dataset.Corrupt`.
pub(super) async fn duplicates(output: &dyn Store, manifest: &Manifest) -> Result<Vec<(String, Bytes)>> {
    let shards = contents::shards(output, manifest).await?;
    let (extractor, settings) = (&manifest.extractor, &manifest.settings);
    let of = DuplicatesOf { version: manifest.version, shards: &shards, extractor, settings, base: None };
    Ok(stages::duplicates(output, of).await?.1)
}

/// Keys and contents of the files of a version's outliers, made again. Fails with `Dataset.Corrupt`.
pub(super) async fn outliers(output: &dyn Store, manifest: &Manifest) -> Result<Vec<(String, Bytes)>> {
    let of = OutliersOf {
        version: manifest.version,
        extractor: &manifest.extractor.id,
        basis: &manifest.basis,
        settings: &manifest.settings,
        parts: &contents::parts(output, manifest).await?,
    };
    Ok(stages::outliers(output, of).await?.1)
}

/// Makes the tables of all versions again and compares them.
pub(super) async fn check(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    for manifest in survey.manifests() {
        if let Some(found) = &manifest.duplicates {
            let made = duplicates(output, &manifest).await;
            compare(survey, output, (&manifest, &found.files), made, same_duplicates).await?;
        }
        if let Some(found) = &manifest.outliers {
            let made = outliers(output, &manifest).await;
            compare(survey, output, (&manifest, &found.files), made, same_outliers).await?;
        }
    }
    Ok(())
}

/// Compares files with those on record. A release whose tables have other bytes gives the same rows.
async fn compare(
    survey: &mut Survey,
    output: &dyn Store,
    (manifest, files): (&Manifest, &[FileRef]),
    made: Result<Vec<(String, Bytes)>>,
    same: fn(Bytes, Bytes, &str) -> Result<bool>,
) -> Result<()> {
    let made = match made {
        Ok(made) => made,
        // What it is made of is damaged; that is noted where it is read.
        Err(e) if super::named::damage(&e).is_some() => return Ok(()),
        Err(e) => return Err(e),
    };
    for (file, body) in files.iter().zip(made.iter().map(|(_, body)| body)) {
        if survey.problems.contains_key(&file.key) || file.checksum == Some(Checksum::of(body)) {
            continue;
        }
        let equal = match file.read(output).await {
            Ok(found) => same(found, body.clone(), &file.key),
            Err(e) => Err(e),
        };
        match equal {
            Ok(true) => {}
            Ok(false) => report(survey, &file.key, manifest),
            Err(e) => survey.note(&file.key, e, Fault::Wrong)?,
        }
    }
    if let Some(file) = files.first().filter(|_| files.len() != made.len()) {
        report(survey, &file.key, manifest);
    }
    Ok(())
}

fn report(survey: &mut Survey, key: &str, manifest: &Manifest) {
    survey.report(key, Fault::Wrong, "these are not the rows that follow from the version", &[manifest.version]);
}

fn same_duplicates(a: Bytes, b: Bytes, key: &str) -> Result<bool> {
    Ok(read_duplicates(a, key)? == read_duplicates(b, key)?)
}

fn same_outliers(a: Bytes, b: Bytes, key: &str) -> Result<bool> {
    Ok(read_outliers(a, key)? == read_outliers(b, key)?)
}
