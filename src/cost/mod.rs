//! What a run costs: the dated prices, the estimate beforehand, its simulation, and the receipt afterwards.

pub mod estimate;
pub mod prices;
pub mod receipt;
pub mod simulate;
#[cfg(test)]
mod tests;
