//! Progress bars on standard error, if that is a terminal.

use std::{
    borrow::Cow,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use pomona::{
    Error, escape_invisible,
    pipeline::{Phase, Watcher},
    stages::Monitor,
};

use crate::out::note;

const COUNTED: &str = "{msg:<10} {bar:32} {human_pos}/{human_len}  {per_sec:>9}  {eta} left";
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
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = template.unwrap_or(if total.is_some() { COUNTED } else { PLAIN });
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
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

impl Monitor for Bars {
    fn listed(&self, objects: u64) {
        self.current().set_position(objects);
    }

    fn image_done(&self) {
        self.step();
    }
}

impl Watcher for Bars {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        self.start(phase.name(), total, (phase == Phase::Plan).then_some(UNCOUNTED));
    }

    fn part_done(&self) {
        self.step();
    }

    fn end(&self, _phase: Phase, _took: Duration) {
        self.clear();
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
