//! Products of features with many rows of weights.

use ndarray::ArrayView2;
use pomona_kernels::linear::{Loadings, ROWS};

/// Rows of features that are scored together: they stay in the cache while all weights pass.
const PANEL: usize = 8 * ROWS;

/// Rows of weights, packed for the kernel.
#[derive(Debug)]
pub(crate) struct Scorer {
    loadings: Loadings,
    outputs: usize,
}

impl Scorer {
    /// Packs matrices of weights, `[outputs, columns]` each, one below the other.
    pub(crate) fn new<'a>(weights: impl Iterator<Item = ArrayView2<'a, f64>>) -> Self {
        let (mut all, mut outputs, mut columns) = (Vec::new(), 0, 0);
        for matrix in weights {
            outputs += matrix.nrows();
            columns = matrix.ncols();
            all.extend(matrix.iter().copied());
        }
        Scorer { loadings: Loadings::new(&all, columns), outputs }
    }

    /// Calls `take` with the number of each selected row and its products, `[outputs]`, each summed in `f64` in the order of
    /// the columns.
    pub(crate) fn each(&self, features: ArrayView2<'_, f32>, rows: &[usize], mut take: impl FnMut(usize, &[f64])) {
        let mut products = vec![0.0; PANEL.min(rows.len().next_multiple_of(ROWS)) * self.outputs];
        for rows in rows.chunks(PANEL) {
            let panel: Vec<Vec<[f64; ROWS]>> = rows
                .chunks(ROWS)
                .map(|rows| {
                    let mut block = vec![[0.0; ROWS]; features.ncols()];
                    for (lane, row) in rows.iter().enumerate() {
                        for (to, value) in block.iter_mut().zip(features.row(*row)) {
                            to[lane] = f64::from(*value);
                        }
                    }
                    block
                })
                .collect();
            self.loadings.products(&panel, &mut products);
            for (row, products) in rows.iter().zip(products.chunks_exact(self.outputs.max(1))) {
                take(*row, products);
            }
        }
    }
}
