//! Child processes with a deadline: a hung tenant is ended and reported, never waited for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a child is asked whether it has ended. Nothing is timed by it: tenants stamp their own clock.
const POLL: Duration = Duration::from_millis(2);
/// How much of a child's output an error repeats.
const TAIL_BYTES: u64 = 2_000;

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Exited(ExitStatus),
    /// By us, at its deadline.
    Deadline,
}

impl Ending {
    /// What happened, in words, when it was not a good end.
    pub fn fault(&self, deadline: Duration) -> Option<String> {
        match self {
            Self::Exited(status) if status.success() => None,
            Self::Exited(status) => Some(match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
            }),
            Self::Deadline => {
                Some(format!("hung and was ended at its deadline of {} s", deadline.as_secs_f64()))
            }
        }
    }
}

/// Runs `command` with its output in the file `log`, for `deadline` at most. The child leads a process group of its own,
/// which is ended as a whole, and dies with us.
pub fn run_to_deadline(command: &mut Command, log: &Path, deadline: Duration) -> io::Result<Ending> {
    let output = File::create(log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    // SAFETY: prctl is async-signal-safe and touches only the child's own parent-death signal.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    wait(command.spawn()?, deadline)
}

fn wait(mut child: Child, deadline: Duration) -> io::Result<Ending> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ending::Exited(status));
        }
        if Instant::now() >= end {
            end_group(&child);
            child.wait()?;
            return Ok(Ending::Deadline);
        }
        thread::sleep(POLL);
    }
}

fn end_group(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: the child leads this group and has not been waited for, so the number is still its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// The last lines of a log, for an error message; empty when there are none.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hung_child_and_its_children_are_ended_at_the_deadline() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let deadline = Duration::from_millis(300);
        let ending = run_to_deadline(&mut command, log.path(), deadline).unwrap();
        assert_eq!(ending, Ending::Deadline);
        assert!(ending.fault(deadline).unwrap().contains("deadline of 0.3 s"));
        let grandchild: i32 = tail(log.path()).parse().unwrap();
        // SIGKILL has been sent; this ends only when the kernel has carried it out.
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while lives() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_bad_end_is_told_by_status_or_signal() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let deadline = Duration::from_secs(60);
            run_to_deadline(&mut command, log.path(), deadline).unwrap().fault(deadline)
        };
        assert_eq!(run("exit 0"), None);
        assert_eq!(run("exit 3").unwrap(), "ended with status 3");
        assert_eq!(run("kill -SEGV $$").unwrap(), "was ended by signal 11");
        assert_eq!(run("echo last words >&2; exit 1").unwrap(), "ended with status 1");
        assert_eq!(tail(log.path()), "last words");
    }
}
