//! Connected components, by union and find.

/// Disjoint sets of rows. The root of a set is its smallest row, so it does not depend on the order of the unions.
#[derive(Clone, Debug)]
pub struct Components {
    parents: Vec<u32>,
}

impl Components {
    /// One set for each of `rows` rows.
    pub fn new(rows: u32) -> Self {
        Components { parents: (0..rows).collect() }
    }

    /// The smallest row of the set of a row.
    pub fn root(&mut self, row: u32) -> u32 {
        let mut at = row;
        while self.parents[at as usize] != at {
            let parent = self.parents[at as usize];
            self.parents[at as usize] = self.parents[parent as usize];
            at = self.parents[at as usize];
        }
        at
    }

    /// Unites the sets of two rows.
    pub fn connect(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }

    /// Whether two rows are in one set.
    pub fn connected(&mut self, a: u32, b: u32) -> bool {
        self.root(a) == self.root(b)
    }

    /// The sets with at least two rows: each ascending, in the order of their first rows.
    pub fn groups(&mut self) -> Vec<Vec<u32>> {
        let mut rows: Vec<(u32, u32)> = Vec::new();
        for row in 0..self.parents.len() as u32 {
            let root = self.root(row);
            if root != row {
                rows.push((root, row));
            }
        }
        rows.sort_unstable();
        let groups = rows.chunk_by(|a, b| a.0 == b.0);
        groups
            .map(|group| {
                group.first().map(|(root, _)| *root).into_iter().chain(group.iter().map(|(_, row)| *row)).collect()
            })
            .collect()
    }
}
