//! Progress bars on standard error, if that is a terminal.

use std::{
    borrow::Cow,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    Error, escape_invisible,
    pipeline::{Phase, Watcher},
    stages::Monitor,
};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{
    format,
    out::{detail, is_quiet, note},
};

const COUNTED: &str = "{msg:<10} {wide_bar} {human_pos}/{human_len}  {rate:>6}/s  {eta} left";
const UNCOUNTED: &str = "{msg:<10} {spinner} {elapsed}  {human_pos} found";
const PLAIN: &str = "{msg:<10} {spinner} {elapsed}";

/// One bar at a time: that of the current stage.
#[derive(Debug)]
pub(crate) struct Bars {
    current: Mutex<ProgressBar>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Bars { current: Mutex::new(ProgressBar::hidden()) }
    }

    fn current(&self) -> MutexGuard<'_, ProgressBar> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a bar, or a spinner if there is no total.
    pub(crate) fn start(&self, name: impl Into<Cow<'static, str>>, total: Option<u64>, template: Option<&str>) {
        if is_quiet() {
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = template.unwrap_or(if total.is_some() { COUNTED } else { PLAIN });
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("rate", rate).progress_chars("█▉▊▋▌▍▎▏ "));
        }
        let name: Cow<'static, str> = name.into();
        bar.set_message(escape_invisible(&name).into_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        *self.current() = bar;
    }

    pub(crate) fn step(&self) {
        self.current().inc(1);
    }

    pub(crate) fn clear(&self) {
        self.current().finish_and_clear();
    }
}

/// Whole images a second; with a digit behind the point below ten.
fn rate(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    let per_second = state.per_sec();
    let digits = usize::from(per_second < 10.0);
    // A bar without a rate is no reason to fail.
    let _ = write!(text, "{per_second:.digits$}");
}

impl Monitor for Bars {
    fn listed(&self, objects: u64) {
        self.current().set_position(objects);
    }

    fn image_done(&self) {
        self.step();
    }

    fn settings_changed(&self, changes: &[String], images: u64) {
        note(&format!("Other settings than those of the last version: {}", escape_invisible(&changes.join("; "))));
        note(&format!("  computed again from the features of {images} images; no image is inferred again"));
    }
}

impl Watcher for Bars {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        if let Some(total) = total.filter(|total| *total > 0) {
            detail(&format!("{}: {}", phase.name(), format::count(total)));
        }
        self.start(phase.name(), total, (phase == Phase::Plan).then_some(UNCOUNTED));
    }

    fn part_done(&self) {
        self.step();
    }

    fn end(&self, phase: Phase, took: Duration) {
        self.clear();
        detail(&format!("{}: {:.2} s", phase.name(), took.as_secs_f64()));
    }

    fn mending(&self, damage: &Error) {
        note(&format!("Warning: {}; it is made again", escape_invisible(&damage.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_bar_are_escaped() {
        let bars = Bars::new();
        bars.start("a\u{202e}b\n", None, None);
        assert_eq!(bars.current().message(), "a\\u{202e}b\\n");
        bars.clear();
    }
}
