//! Who holds a mark or a lock: a process, or an execution of a state machine.

use std::{fmt, fs, sync::LazyLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The content of a mark or a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    /// None in marks of release 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<Holder>,
}

impl Mark {
    /// A mark of this process, or of an execution that it works for.
    pub(super) fn now(execution: Option<&str>) -> Self {
        let holder = match execution {
            Some(arn) => Some(Holder::Execution { execution: arn.to_owned() }),
            None => THIS.clone(),
        };
        Mark { at: Timestamp::now(), holder }
    }
}

/// What holds a mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Holder {
    /// An execution of a state machine.
    Execution { execution: String },
    /// A process.
    Process(Process),
}

/// Identifies a process among those of all hosts and boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Name of the host, for people.
    host: String,
    /// Identifies the installation of the system.
    machine: String,
    /// Identifies the boot of the kernel.
    boot: String,
    /// Identifies the namespace of the process number: containers on one kernel have different ones.
    namespace: String,
    process: u32,
    /// Start of the process, in clock ticks since the boot: process numbers are used again.
    started: u64,
}

static THIS: LazyLock<Option<Holder>> = LazyLock::new(|| this_process().map(Holder::Process));

/// None on a system without `/proc`.
fn this_process() -> Option<Process> {
    let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    Some(Process {
        host: text("/proc/sys/kernel/hostname")?,
        machine: text("/etc/machine-id").unwrap_or_default(),
        boot: text("/proc/sys/kernel/random/boot_id")?,
        namespace: fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned(),
        process: std::process::id(),
        started: start_of(std::process::id())?,
    })
}

/// Start of a process in clock ticks since the boot. None if it does not exist or is a zombie.
fn start_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, can contain anything. The state is the first field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22 of the line; field 4 is the next one.
    fields.nth(18)?.parse().ok()
}

impl Holder {
    /// Whether this is a process under the running kernel. Locks on files then tell whether it lives.
    pub(super) fn is_on_this_boot(&self) -> bool {
        match (self, THIS.as_ref()) {
            (Holder::Process(process), Some(Holder::Process(this))) => process.boot == this.boot,
            _ => false,
        }
    }

    /// Whether the process lives. None for a process whose number means nothing here, and for an execution.
    pub(super) fn lives(&self) -> Option<bool> {
        let (Holder::Process(process), Some(Holder::Process(this))) = (self, THIS.as_ref()) else { return None };
        if process.boot == this.boot {
            return (process.namespace == this.namespace).then(|| start_of(process.process) == Some(process.started));
        }
        // The same system has been started again.
        let same_system = !this.machine.is_empty() && (&process.machine, &process.host) == (&this.machine, &this.host);
        same_system.then_some(false)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(Holder::Execution { execution }) => write!(f, "execution {execution}")?,
            Some(Holder::Process(process)) => write!(f, "process {} on {}", process.process, process.host)?,
            None => f.write_str("an unknown process")?,
        }
        write!(f, ", since {}", self.at.strftime("%Y-%m-%d %H:%M:%SZ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this() -> Process {
        this_process().unwrap()
    }

    #[test]
    fn a_process_is_told_from_others_with_its_number() {
        let lives = |process: Process| Holder::Process(process).lives();
        assert_eq!(lives(this()), Some(true));
        assert_eq!(lives(Process { started: 1, ..this() }), Some(false));
        assert_eq!(lives(Process { process: u32::MAX, ..this() }), Some(false));
        assert_eq!(lives(Process { namespace: "pid:[1]".to_owned(), ..this() }), None);
        assert_eq!(lives(Process { boot: "b".to_owned(), machine: "m".to_owned(), ..this() }), None);
        let rebooted = Process { boot: "b".to_owned(), ..this() };
        assert_eq!(lives(rebooted.clone()), (!rebooted.machine.is_empty()).then_some(false));
    }

    #[test]
    fn marks_name_their_holder_and_are_read_back() {
        let marks = [Mark::now(None), Mark::now(Some("arn:x")), Mark { holder: None, ..Mark::now(None) }];
        for mark in &marks {
            let json = serde_json::to_string(mark).unwrap();
            assert_eq!(serde_json::from_str::<Mark>(&json).unwrap(), *mark);
        }
        assert!(marks[0].to_string().starts_with(&format!("process {} on ", std::process::id())), "{}", marks[0]);
        assert!(marks[1].to_string().starts_with("execution arn:x, since 20"), "{}", marks[1]);
    }
}
