//! Keys that divide a range of keys, from no more than the keys at its ends.
//!
//! A bucket does not say how its keys are spread. So a lister asks for a key in the middle of what may be left, as if each
//! character could be any of ASCII, and learns from the answer.

/// Characters of most keys are below this one, so it stands for all others.
const TOP: u32 = 0x80;
/// Stands for the end of a key: below all characters that keys mostly have.
const END: u32 = 0x1f;

/// A text between two keys; with `high` of None, above `low`. None if there is none that divides them.
pub(super) fn middle(low: &str, high: Option<&str>) -> Option<String> {
    let (mut lows, mut highs) = (low.chars().map(u32::from), high.map(|high| high.chars().map(u32::from)));
    let mut text = String::new();
    let between = loop {
        let next = lows.next();
        let above = highs.as_mut().map(|highs| highs.next().unwrap_or(END));
        let at = next.unwrap_or(END);
        let end = above.unwrap_or(if at < TOP { TOP } else { u32::from(char::MAX) + 1 });
        if above == Some(at) {
            text.push(char::from_u32(next?)?);
            continue;
        }
        // What stands above ASCII counts as one character, as long as there is something in ASCII.
        let top = if at < TOP { end.min(TOP) } else { end };
        if top > at + 1 {
            break at + (top - at) / 2;
        }
        if top < end || highs.as_mut().is_some_and(|highs| highs.next().is_some()) {
            break top;
        }
        // Nothing is between the two characters, so what is left begins as `low` does.
        text.push(char::from_u32(next?)?);
        highs = None;
    };
    text.push(char::from_u32(between)?);
    (text.as_str() > low && high.is_none_or(|high| text.as_str() < high)).then_some(text)
}

/// A text above all keys that begin with `prefix`.
pub(super) fn beyond(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// The number of bytes that two texts have in common at their start, whole characters only.
pub(super) fn shared(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    same.map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// The share of the keys from `low` to `high` that are expected up to `at`, if the keys are spread evenly: 0 to 1.
pub(super) fn share(low: &str, at: &str, high: Option<&str>) -> f64 {
    let start = high.map_or(0, |high| shared(low, high)).min(shared(low, at));
    let value = |key: &str| {
        let digits = key.get(start..).unwrap_or_default().chars().take(10).map(|c| f64::from(u32::from(c).min(TOP)));
        let (value, _) = digits.fold((0.0, 1.0), |(value, unit), digit| {
            let unit = unit / f64::from(TOP + 1);
            (value + digit * unit, unit)
        });
        value
    };
    let (low, at, high) = (value(low), value(at), high.map_or(1.0, value));
    if high > low { ((at - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_middle_is_near_half_of_the_characters() {
        assert_eq!(middle("a/0", Some("a/8")).as_deref(), Some("a/4"));
        assert_eq!(middle("", None).as_deref(), Some("O"));
        assert_eq!(middle("photos/1", None).as_deref(), Some("x"));
        // First the branch of the upper key, then what is left of that of the lower one.
        assert_eq!(middle("a/7", Some("b/3")).as_deref(), Some("b"));
        assert_eq!(middle("a/7", Some("b")).as_deref(), Some("aW"));
        assert_eq!(middle("a", Some("é")).as_deref(), Some("p"));
        assert_eq!(middle("~", Some("é")).as_deref(), Some("\u{7f}"));
        assert_eq!(middle("\u{7f}", Some("é")).as_deref(), Some("\u{80}"));
        assert_eq!(middle("a", Some("a")), None);
    }

    #[test]
    fn the_share_follows_the_keys() {
        for (low, at, high, expected) in [
            ("k/0000", "k/5000", Some("k/9999"), 0.55),
            ("k/1", "k/1", Some("k/9"), 0.0),
            ("", "@", None, 0.5),
            ("a", "z", Some("z"), 1.0),
            ("z", "z", Some("a"), 0.0),
        ] {
            assert!((share(low, at, high) - expected).abs() < 0.02, "{low} {at} {high:?}: {}", share(low, at, high));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn the_middle_is_between_the_ends(
            a in "[ -~]{0,6}|[a\u{7f}é\u{d7ff}\u{e000}漢\u{10ffff}\u{1}]{0,4}",
            b in "[ -~]{0,6}|[a\u{7f}é\u{d7ff}\u{e000}漢\u{10ffff}\u{1}]{0,4}",
        ) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(middle(&low, Some(&high)).is_none_or(|m| low < m && m < high));
            prop_assert!(middle(&low, None).is_none_or(|m| low < m));
            prop_assert!(beyond(&low[..shared(&low, &high)]) > low);
            prop_assert!((0.0..=1.0).contains(&share(&low, &high, None)));
        }
    }
}
