//! What the page shows of a version: its images, and the lists of findings.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use tokio::sync::Mutex;

use super::{current::Current, opened::Opened, table::Table};
use crate::{
    ErrorKind, Result,
    dataset::{
        Manifest, RejectedObject, Searched,
        labelling::{self, Given},
        tables::OutlierRow,
    },
    store::Store,
    versions::findings::{self, DuplicateGroup},
};

/// A list of findings.
#[derive(Debug, Serialize)]
pub(super) struct Found<T> {
    pub(super) rows: Vec<T>,
    /// Why the list is not complete.
    pub(super) note: Option<String>,
}

impl<T> Found<T> {
    /// Findings that were not searched are no rows, and a note.
    fn of(found: Result<Vec<T>>) -> Result<Self> {
        match found {
            Ok(rows) => Ok(Found { rows, note: None }),
            Err(error) if error.is(ErrorKind::InputInvalid) => {
                Ok(Found { rows: Vec::new(), note: Some(error.to_string()) })
            }
            Err(error) => Err(error),
        }
    }
}

/// The content of the page.
#[derive(Debug)]
pub(super) struct View {
    pub(super) opened: Arc<Opened>,
    pub(super) table: Table,
    pub(super) duplicates: Found<DuplicateGroup>,
    pub(super) outliers: Found<OutlierRow>,
    pub(super) rejects: Vec<RejectedObject>,
    /// What the file of labels of the version says.
    pub(super) given: BTreeMap<String, Given>,
}

impl View {
    async fn read(output: &dyn Store, opened: Arc<Opened>) -> Result<View> {
        let version = opened.version();
        let mut duplicates = Found::of(findings::duplicates(output, version).await)?;
        duplicates.note = duplicates.note.or_else(|| limited(version));
        let outliers = Found::of(findings::outliers(output, version).await)?;
        let (rejects, given) =
            (findings::rejects(output, version).await?, labelling::given(output, &version.settings).await?);
        let mut table = Table::read(output, version).await?;
        table.mark(&duplicates.rows, &outliers.rows);
        Ok(View { opened, table, duplicates, outliers, rejects, given })
    }

    /// Number of the version.
    pub(super) fn version(&self) -> u64 {
        self.opened.version().version.0
    }

    /// Whether the version has the image, with or without features.
    pub(super) fn has(&self, path: &str) -> bool {
        self.table.row(path).is_some() || self.rejects.iter().any(|reject| reject.path == path)
    }
}

fn limited(version: &Manifest) -> Option<String> {
    let only_bytes = version.duplicates.as_ref()?.searched == Searched::SameBytes;
    only_bytes.then(|| "only images with the same bytes were searched: the version has too many images".to_owned())
}

/// The view of the current version. One is kept: that of the version that was asked for last.
#[derive(Debug)]
pub(super) struct Views {
    current: Arc<Current>,
    last: Mutex<Option<Arc<View>>>,
}

impl Views {
    pub(super) fn new(current: Arc<Current>) -> Self {
        Views { current, last: Mutex::default() }
    }

    /// The view of the version that answers now.
    pub(super) async fn now(&self) -> Result<Arc<View>> {
        self.current.ask(|opened| self.of(opened)).await
    }

    async fn of(&self, opened: Arc<Opened>) -> Result<Arc<View>> {
        let mut last = self.last.lock().await;
        if let Some(view) = last.as_ref().filter(|view| Arc::ptr_eq(&view.opened, &opened)) {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(View::read(self.current.output().as_ref(), opened).await?);
        *last = Some(Arc::clone(&view));
        Ok(view)
    }
}
