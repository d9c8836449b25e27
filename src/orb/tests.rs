//! Properties of keypoints and words. `tests/python/test_orb.py` compares keypoints with OpenCV.

use proptest::prelude::*;

use super::*;

/// Blocks of one brightness, whose corners are found, with noise: of pixels that are equally good, none is a corner.
fn noise(seed: u64, width: usize, height: usize) -> Pixels {
    let mut random = fastrand::Rng::with_seed(seed);
    let blocks: Vec<u8> = (0..400).map(|_| random.u8(..240)).collect();
    let mut sample = |at: usize| [blocks[(at / width / 9 % 20) * 20 + at % width / 9 % 20] + random.u8(..15); 3];
    Pixels { width, height, data: (0..width * height).flat_map(&mut sample).collect() }
}

fn turned(pixels: &Pixels) -> Pixels {
    let (width, height) = (pixels.height, pixels.width);
    let pixel = |at: usize| {
        // A quarter turn clockwise.
        let (x, y) = (at % width, at / width);
        let from = ((pixels.height - 1 - x) * pixels.width + y) * 3;
        [pixels.data[from], pixels.data[from + 1], pixels.data[from + 2]]
    };
    Pixels { width, height, data: (0..width * height).flat_map(pixel).collect() }
}

#[test]
fn there_are_as_many_keypoints_as_wanted_and_each_level_has_its_share() {
    let orb = Orb::default();
    assert_eq!(orb.shares(), [109, 90, 75, 63, 52, 44, 36, 31]);
    let found = orb.detect(&noise(3, 400, 300));
    assert!(found.len() > 400 && found.len() <= 500, "{}", found.len());
    for (octave, share) in (0..8).zip(orb.shares()) {
        let of_level: Vec<_> = found.iter().filter(|keypoint| keypoint.octave == octave).collect();
        assert!(of_level.len() <= share && of_level.windows(2).all(|pair| pair[0].response >= pair[1].response));
    }
    assert!(orb.detect(&noise(3, 62, 400)).is_empty() && orb.detect(&noise(3, 1, 1)).is_empty());
}

/// A quarter turn moves keypoints of the first level and turns their angles; descriptors hardly change.
#[test]
fn a_quarter_turn_keeps_the_descriptors() {
    let (orb, pixels) = (Orb { levels: 1, ..Orb::default() }, noise(5, 200, 150));
    let (before, after) = (orb.detect(&pixels), orb.detect(&turned(&pixels)));
    let (mut same, mut bits) = (0, 0);
    for keypoint in &before {
        let (x, y) = (149.0 - keypoint.y, keypoint.x);
        let Some(other) = after.iter().find(|other| other.x == x && other.y == y) else { continue };
        same += 1;
        let turn = (other.angle - keypoint.angle - 90.0).rem_euclid(360.0);
        assert!(!(0.01..=359.99).contains(&turn), "{turn}");
        bits += hamming(&keypoint.descriptor, &other.descriptor);
    }
    assert!(same * 10 >= before.len() * 9 && same > 50, "{same} of {}", before.len());
    assert!(bits < same as u32 * 8, "{bits} bits of {same} keypoints");
}

#[test]
fn a_vocabulary_is_read_as_written_and_damage_is_named() {
    let images: Vec<Vec<Descriptor>> = (0..6)
        .map(|seed| Orb::default().detect(&noise(seed, 200, 150)).iter().map(|k| k.descriptor).collect())
        .collect();
    let vocabulary = Vocabulary::learn(Orb::default(), Weights::Counts, &images, 20).unwrap();
    let file = vocabulary.to_bytes();
    assert_eq!(Vocabulary::from_bytes(&file).unwrap(), vocabulary);
    let keeps = vocabulary.clone().with_keypoints(true);
    assert_eq!(Vocabulary::from_bytes(&keeps.to_bytes()).unwrap(), keeps);
    assert_eq!(keeps.with_keypoints(false).to_bytes(), file);
    assert_eq!((vocabulary.len(), vocabulary.counts(&images[0]).iter().sum::<u32>() as usize), (20, images[0].len()));
    let text = String::from_utf8(file.to_vec()).unwrap();
    for (from, to) in [
        ("words 1", "words 2"),
        ("\"levels\":8", "\"levels\":0"),
        ("\"descriptor\":\"", "\"descriptor\":\"x"),
        ("]}", "]"),
    ] {
        let error = Vocabulary::from_bytes(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(error.is(crate::ErrorKind::ModelInvalid), "{error}");
    }
    assert!(
        Vocabulary::learn(Orb::default(), Weights::Counts, &[vec![]], 20)
            .unwrap_err()
            .is(crate::ErrorKind::InputInvalid)
    );
    assert!(Vocabulary::learn(Orb::default(), Weights::Counts, &images, MAX_WORDS + 1).is_err());
}

proptest! {
    /// A damaged file of words is refused, or read as other words that work.
    #[test]
    fn a_damaged_vocabulary_does_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let words: Vec<Vec<Descriptor>> = vec![(0..3).map(|byte| [byte; 32]).collect()];
        let mut file = Vocabulary::learn(Orb::default(), Weights::TfIdf, &words, 3).unwrap().to_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        match Vocabulary::from_bytes(&file) {
            Ok(read) => {
                let features = read.features(&read.detect(&noise(1, 90, 80)));
                let largest = f64::from(read.largest());
                prop_assert!(features.len() == read.len() && features.iter().all(|x| (0.0..=largest).contains(&f64::from(*x))));
            }
            Err(error) => prop_assert!(error.is(crate::ErrorKind::ModelInvalid)),
        }
    }

    /// No step of the clustering makes the sum of the distances larger; parts and threads make no difference.
    #[test]
    fn words_are_a_local_optimum(bits in prop::collection::vec(any::<[u8; 2]>(), 1..300), words in 1usize..9) {
        let descriptors: Vec<Descriptor> = bits.iter().map(|[a, b]| std::array::from_fn(|at| if at < 16 { *a } else { *b })).collect();
        let centres = majority(&descriptors, words);
        prop_assert!(centres.len() <= words && !centres.is_empty());
        let cost = |centres: &[Descriptor]| -> u32 {
            descriptors.iter().map(|d| centres.iter().map(|c| hamming(c, d)).min().unwrap()).sum()
        };
        prop_assert!(cost(&centres) <= cost(&vocabulary::start(&descriptors, words)));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        prop_assert_eq!(pool.install(|| majority(&descriptors, words)), centres);
    }
}
