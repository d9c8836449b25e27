//! Bold and coloured text on terminals that show it. `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` turn it off.

use std::io::IsTerminal;

/// Whether texts are styled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    is_on: bool,
}

impl Style {
    /// As it is written to files.
    pub(crate) const PLAIN: Style = Style { is_on: false };

    /// What standard output shows.
    pub(crate) fn of_output() -> Self {
        Style::of(&std::io::stdout(), |name| std::env::var(name).ok())
    }

    /// What standard error shows.
    pub(crate) fn of_errors() -> Self {
        Style::of(&std::io::stderr(), |name| std::env::var(name).ok())
    }

    fn of(place: &impl IsTerminal, variable: impl Fn(&str) -> Option<String>) -> Self {
        Style { is_on: place.is_terminal() && Style::is_wanted(variable) }
    }

    /// An empty `NO_COLOR` is as good as none.
    fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
        variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").as_deref() != Some("dumb")
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what people should look at.
    pub(crate) fn attention(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For errors.
    pub(crate) fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.is_on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_and_dumb_terminals_have_no_styles() {
        let wanted = |name: &str, value: &str| Style::is_wanted(|of| (of == name).then(|| value.to_owned()));
        assert!(wanted("TERM", "xterm-256color"));
        assert!(wanted("NO_COLOR", ""));
        assert!(!wanted("NO_COLOR", "1"));
        assert!(!wanted("TERM", "dumb"));
        assert_eq!(Style { is_on: true }.attention("2 pairs"), "\u{1b}[33m2 pairs\u{1b}[0m");
        assert_eq!(Style::PLAIN.error("a"), "a");
    }
}
