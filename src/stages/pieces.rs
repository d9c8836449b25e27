//! Pieces of the listing that listers have made side by side, and how they are joined.
//!
//! A piece has the objects of a range of keys. Where its first shard begins is decided by what stands before it, so the
//! objects up to the first key that ends its shard in any case stay objects: the *head*. So do those behind the last such
//! key: the *tail*. The tail of a piece and the head of the next are one segment, which is cut when both are there.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    cut::{Cutter, ListedShard},
    sweep::Sink,
};
use crate::{Error, ErrorKind, Result, store::Object};

/// What a lister has found behind one key up to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// All keys are greater. None from the first key.
    pub(super) after: Option<String>,
    /// No key is greater. None to the last key.
    pub(super) until: Option<String>,
    /// The objects before [`body`](Piece::body).
    pub(super) head: Vec<Object>,
    /// None if no key of the piece ends its shard in any case.
    pub(super) body: Option<Body>,
    /// Objects that may be images, in all parts.
    pub(super) objects: u64,
    /// Hidden files, folder markers, and files that are plainly no images.
    pub(super) ignored: u64,
}

/// The part of a piece whose shards are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) shards: Vec<ListedShard>,
    /// The objects behind these shards.
    pub(super) tail: Vec<Object>,
}

impl Piece {
    /// An empty piece.
    pub(super) fn new(after: Option<String>) -> Self {
        // The first key of the input begins a shard.
        let body = after.is_none().then(Body::default);
        Piece { after, body, ..Piece::default() }
    }

    /// Adds the next object.
    pub(super) async fn push(&mut self, object: Object, cutter: &Cutter<'_>) -> Result<()> {
        self.objects += 1;
        let fixed = cutter.boundaries().is_fixed(&object.key);
        match &mut self.body {
            Some(body) => {
                body.tail.push(object);
                if fixed {
                    body.shards.extend(cutter.cut(std::mem::take(&mut body.tail)).await?);
                }
            }
            None => {
                self.head.push(object);
                if fixed {
                    self.body = Some(Body::default());
                }
            }
        }
        Ok(())
    }

    /// This piece and the one that follows it.
    pub(super) async fn join(mut self, mut next: Piece, cutter: &Cutter<'_>) -> Result<Piece> {
        let before = self.body.as_mut().map_or(&mut self.head, |body| &mut body.tail);
        before.append(&mut next.head);
        if let Some(mut next) = next.body {
            if let Some(body) = &mut self.body {
                body.shards.extend(cutter.cut(std::mem::take(&mut body.tail)).await?);
                body.shards.append(&mut next.shards);
                body.tail = next.tail;
            } else {
                self.body = Some(next);
            }
        }
        self.until = next.until;
        self.objects += next.objects;
        self.ignored += next.ignored;
        Ok(self)
    }
}

impl Piece {
    /// Takes the shards that are known, of a piece with the first key.
    pub(super) fn shards(&mut self) -> Vec<ListedShard> {
        self.body.as_mut().map(|body| std::mem::take(&mut body.shards)).unwrap_or_default()
    }

    /// The last shards of a piece with the first and the last key.
    pub(super) async fn finish(mut self, cutter: &Cutter<'_>) -> Result<Vec<ListedShard>> {
        let mut shards = self.shards();
        if let Some(body) = self.body {
            shards.extend(cutter.cut(body.tail).await?);
        }
        Ok(shards)
    }
}

/// Joins pieces in whatever order they come, so that few heads and tails are in memory.
#[derive(Debug)]
pub(super) struct Joiner<'a> {
    cutter: &'a Cutter<'a>,
    /// By [`Piece::after`]. No two of them are neighbours.
    pieces: Mutex<BTreeMap<Option<String>, Piece>>,
    /// Receives the shards of the piece with the first key, as soon as they are known.
    shards: Option<UnboundedSender<ListedShard>>,
}

impl Sink for Joiner<'_> {
    type Part = Piece;

    fn part(&self, after: Option<String>) -> Piece {
        Piece::new(after)
    }

    async fn add(&self, piece: &mut Piece, objects: Vec<Object>) -> Result<()> {
        for object in objects {
            if self.cutter.takes(&object)? {
                piece.push(object, self.cutter).await?;
            } else {
                piece.ignored += 1;
            }
        }
        Ok(())
    }

    async fn end(&self, piece: Piece, until: Option<String>) -> Result<()> {
        self.join(Piece { until, ..piece }).await
    }
}

impl<'a> Joiner<'a> {
    pub(super) fn new(cutter: &'a Cutter<'a>, shards: Option<UnboundedSender<ListedShard>>) -> Self {
        Joiner { cutter, pieces: Mutex::default(), shards }
    }

    fn pieces(&self) -> MutexGuard<'_, BTreeMap<Option<String>, Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the piece if no neighbour of it is there; otherwise returns it with its neighbours.
    fn keep(&self, mut piece: Piece) -> Option<(Option<Piece>, Piece, Option<Piece>)> {
        let mut pieces = self.pieces();
        let before = pieces.range(..&piece.after).next_back();
        let before = before.filter(|(_, before)| before.until == piece.after).map(|(after, _)| after.clone());
        let before = before.and_then(|after| pieces.remove(&after));
        let behind = piece.until.as_ref().and_then(|until| pieces.remove(&Some(until.clone())));
        if before.is_some() || behind.is_some() {
            return Some((before, piece, behind));
        }
        if piece.after.is_none() && self.shards.is_some() {
            self.send(piece.shards());
        }
        pieces.insert(piece.after.clone(), piece);
        None
    }

    /// Adds a piece.
    async fn join(&self, mut piece: Piece) -> Result<()> {
        while let Some((before, middle, behind)) = self.keep(piece) {
            piece = middle;
            if let Some(before) = before {
                piece = before.join(piece, self.cutter).await?;
            }
            if let Some(behind) = behind {
                piece = piece.join(behind, self.cutter).await?;
            }
        }
        Ok(())
    }

    fn send(&self, shards: Vec<ListedShard>) {
        for shard in shards {
            // The receiver has gone only if it has failed, and its error is the one to report.
            if let Some(receiver) = &self.shards {
                let _ = receiver.send(shard);
            }
        }
    }

    /// Takes the pieces, in key order.
    pub(super) fn take(&self) -> Vec<Piece> {
        std::mem::take(&mut *self.pieces()).into_values().collect()
    }

    /// Cuts the last segment of a listing that is complete. Returns the numbers of objects and of ignored objects. Fails
    /// with `Internal.Bug` if a range of keys was not listed.
    pub(super) async fn finish(&self) -> Result<(u64, u64)> {
        let mut pieces = self.take().into_iter();
        let (Some(piece), None) = (pieces.next(), pieces.next()) else {
            return Err(Error::new(ErrorKind::InternalBug, "a part of the input was not listed"));
        };
        if piece.after.is_some() || piece.until.is_some() {
            return Err(Error::new(ErrorKind::InternalBug, "an end of the input was not listed"));
        }
        let counts = (piece.objects, piece.ignored);
        self.send(piece.finish(self.cutter).await?);
        Ok(counts)
    }
}
