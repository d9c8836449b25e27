//! Damages files, as a fuzzer without feedback does: the same seed gives the same file.

/// Longest damaged file, bytes.
const MAX_BYTES: usize = 1 << 20;
/// Numbers at which sizes overflow or change their sign.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x0100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// A file of the corpus with one to four changes.
pub(crate) fn damaged(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut file = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..=4) {
        change(&mut file, corpus, &mut random);
        file.truncate(MAX_BYTES);
    }
    file
}

fn change(file: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut fastrand::Rng) {
    if file.is_empty() {
        file.push(random.u8(..));
    }
    // Most of a format is in the first bytes of a file.
    let within = if random.bool() { file.len().min(64) } else { file.len() };
    let at = random.usize(..within);
    let block = at..(at + random.usize(1..=64)).min(file.len());
    match random.u8(..8) {
        0 => file[at] ^= 1 << random.u8(..8),
        1 => file[at] = random.u8(..),
        2 => file[at] = NUMBERS[random.usize(..NUMBERS.len())] as u8,
        3 => set_number(&mut file[at..], random),
        4 => file.truncate(random.usize(..=file.len())),
        5 => {
            let other = &corpus[random.usize(..corpus.len())];
            file.truncate(at);
            file.extend_from_slice(&other[random.usize(..=other.len())..]);
        }
        6 => {
            let copy = file[block].repeat(random.usize(1..=8));
            file.splice(at..at, copy);
        }
        _ => drop(file.drain(block)),
    }
}

/// Overwrites a number of 2, 4 or 8 bytes, such as a length, in either byte order.
fn set_number(file: &mut [u8], random: &mut fastrand::Rng) {
    let number = NUMBERS[random.usize(..NUMBERS.len())];
    let width = [2, 4, 8][random.usize(..3)];
    let bytes = if random.bool() { number.to_le_bytes() } else { number.rotate_right(8 * width as u32).to_be_bytes() };
    for (to, from) in file.iter_mut().zip(&bytes[..width]) {
        *to = *from;
    }
}
