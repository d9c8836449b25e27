//! All pairs of rows that may be near-duplicates.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Components, Limit, Sketcher, Sketches,
    tree::{Bounds, Tree},
};

/// Leaves of a node: pairs of nodes are the pieces of the work.
const NODE: usize = 64;
/// Pieces between two looks at the number of candidates.
const PIECES: usize = 128;
/// Candidates after which a piece is put aside until they are decided. It then skips what is connected.
const MANY: usize = 1 << 16;
/// The component of a leaf whose rows are in several ones.
const MIXED: u32 = u32::MAX;

/// Two nodes, and the leaf of the first one from which on they are still to be compared.
#[derive(Clone, Copy, Debug)]
struct Piece {
    a: u32,
    b: u32,
    from: u32,
}

/// A search for all pairs of rows whose sketches are within a limit, in steps: a caller decides the candidates of a step
/// before the next. Rows that are connected already are not candidates.
#[derive(Debug)]
pub struct PairSearch {
    tree: Tree,
    nodes: Vec<Bounds>,
    limit: f32,
    components: Components,
    /// The component of each place, as of the last step.
    known: Vec<u32>,
    /// The component of each leaf.
    uniform: Vec<u32>,
    /// What is left, in reverse order.
    pieces: Vec<Piece>,
    /// The node whose pairs are next.
    next: usize,
}

impl PairSearch {
    /// A search among rows of `sketches`, except for those that `components` connects with an earlier row.
    pub fn new(sketcher: &Sketcher, sketches: Sketches, mut components: Components, limit: Limit) -> Self {
        let bound = limit.of_sketches(sketcher.stretch(), sketches.error(), Sketches::WIDTH);
        let rows = (0..sketches.rows() as u32).filter(|row| components.root(*row) == *row).collect();
        let tree = Tree::new(&sketches, rows);
        drop(sketches);
        let nodes = (0..tree.leaves().div_ceil(NODE)).map(|node| tree.around(leaves(&tree, node))).collect();
        let mut search = PairSearch {
            known: vec![0; tree.order.len()],
            uniform: vec![MIXED; tree.leaves()],
            nodes,
            limit: bound,
            components,
            pieces: Vec::new(),
            next: 0,
            tree,
        };
        search.learn();
        search
    }

    /// The next candidates: about `count` of them, or fewer at the end. None are left if there are none.
    pub fn candidates(&mut self, count: usize) -> Vec<(u32, u32)> {
        self.learn();
        let mut found = Vec::new();
        while found.len() < count {
            self.refill();
            if self.pieces.is_empty() {
                break;
            }
            let pieces = self.pieces.split_off(self.pieces.len().saturating_sub(PIECES));
            let compared: Vec<_> = pieces.into_par_iter().rev().map(|piece| self.compare(piece)).collect();
            let mut rest = Vec::new();
            for (candidates, piece) in compared {
                found.extend(candidates);
                rest.extend(piece);
            }
            self.pieces.extend(rest.into_iter().rev());
        }
        found
    }

    /// Whether two rows are known to be in one group.
    pub fn connected(&mut self, a: u32, b: u32) -> bool {
        self.components.connected(a, b)
    }

    /// Puts two rows into one group.
    pub fn connect(&mut self, a: u32, b: u32) {
        self.components.connect(a, b);
    }

    /// The groups so far.
    pub fn into_components(self) -> Components {
        self.components
    }

    /// Adds the pairs of the next nodes that are not apart.
    fn refill(&mut self) {
        while self.pieces.len() < PIECES && self.next < self.nodes.len() {
            let (a, nodes, limit) = (self.next, &self.nodes, self.limit);
            let others: Vec<usize> =
                (a..nodes.len()).into_par_iter().filter(|b| !nodes[a].apart(&nodes[*b], limit)).collect();
            let first = (leaves(&self.tree, a).start) as u32;
            let pieces = others.into_iter().map(|b| Piece { a: a as u32, b: b as u32, from: first });
            // The next ones are at the end.
            drop(self.pieces.splice(0..0, pieces.rev()));
            self.next += 1;
        }
    }

    /// Notes the component of each place and leaf.
    fn learn(&mut self) {
        let PairSearch { tree, known, uniform, components, .. } = self;
        for (known, row) in known.iter_mut().zip(&tree.order) {
            *known = components.root(*row);
        }
        for (leaf, uniform) in uniform.iter_mut().enumerate() {
            let rows = &known[tree.places(leaf)];
            *uniform = match rows.first() {
                Some(first) if rows.iter().all(|row| row == first) => *first,
                _ => MIXED,
            };
        }
    }

    /// Compares the rows of two nodes. Returns the rest of the piece, if it has many candidates.
    fn compare(&self, piece: Piece) -> (Vec<(u32, u32)>, Option<Piece>) {
        let mut found = Vec::new();
        let (a, b) = (piece.a as usize, piece.b as usize);
        let (first, second) = (leaves(&self.tree, a), leaves(&self.tree, b));
        for leaf in piece.from as usize..first.end {
            if found.len() >= MANY {
                return (found, Some(Piece { from: leaf as u32, ..piece }));
            }
            let bounds = self.tree.leaf(leaf);
            if a != b && bounds.apart(&self.nodes[b], self.limit) {
                continue;
            }
            let others = if a == b { leaf..second.end } else { second.clone() };
            for other in others {
                let same = self.uniform[leaf] != MIXED && self.uniform[leaf] == self.uniform[other];
                if !same && !bounds.apart(self.tree.leaf(other), self.limit) {
                    self.compare_leaves(leaf, other, &mut found);
                }
            }
        }
        (found, None)
    }

    fn compare_leaves(&self, leaf: usize, other: usize, found: &mut Vec<(u32, u32)>) {
        let (places, bounds) = (self.tree.places(other), self.tree.leaf(other));
        for place in self.tree.places(leaf) {
            let row = self.tree.row(place);
            if leaf != other && bounds.excludes(&row, self.limit) {
                continue;
            }
            let mut mask = self.tree.within(&row, other, self.limit);
            while mask != 0 {
                let near = places.start + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let is_later = leaf != other || near > place;
                if is_later && self.known[near] != self.known[place] {
                    let (a, b) = (self.tree.order[place], self.tree.order[near]);
                    found.push((a.min(b), a.max(b)));
                }
            }
        }
    }
}

/// The leaves of a node.
fn leaves(tree: &Tree, node: usize) -> Range<usize> {
    node * NODE..((node + 1) * NODE).min(tree.leaves())
}
