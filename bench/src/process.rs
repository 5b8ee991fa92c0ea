//! Child processes with a deadline: a hung tenant is ended and reported, never waited for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt;

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
    /// By us, since the user ended the run.
    Interrupted,
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
            Self::Interrupted => Some("was ended with the run".to_owned()),
        }
    }
}

/// A child that leads a process group of its own, which is ended as a whole, and which dies with us. Dropping it ends it.
pub struct Group {
    child: Child,
    end: Instant,
    waited: bool,
}

impl Group {
    /// Starts `command` with its output in the file `log`, for `deadline` at most.
    pub fn start(command: &mut Command, log: &Path, deadline: Duration) -> io::Result<Self> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        // SAFETY: prctl is async-signal-safe and touches only the child's own parent-death signal.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        Ok(Self { child: command.spawn()?, end: Instant::now() + deadline, waited: false })
    }

    /// The child's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends, or ends it at its deadline, or when the user ends the run.
    pub fn wait(mut self) -> io::Result<Ending> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.waited = true;
                return Ok(Ending::Exited(status));
            }
            let interrupted = interrupt::is_requested();
            if interrupted || Instant::now() >= self.end {
                self.end()?;
                return Ok(if interrupted { Ending::Interrupted } else { Ending::Deadline });
            }
            thread::sleep(POLL);
        }
    }

    /// Ends the whole group at once.
    pub fn end(&mut self) -> io::Result<()> {
        if !self.waited {
            end_group(&self.child);
            self.child.wait()?;
            self.waited = true;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.end(); // Nothing is left to do about one that cannot be waited for.
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
        let ending = Group::start(&mut command, log.path(), deadline).unwrap().wait().unwrap();
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
    fn a_child_that_is_no_longer_wanted_is_ended() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sleep");
        let group = Group::start(command.arg("1000"), log.path(), Duration::from_secs(60)).unwrap();
        let pid = group.pid();
        drop(group);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_bad_end_is_told_by_status_or_signal() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let deadline = Duration::from_secs(60);
            Group::start(&mut command, log.path(), deadline).unwrap().wait().unwrap().fault(deadline)
        };
        assert_eq!(run("exit 0"), None);
        assert_eq!(run("exit 3").unwrap(), "ended with status 3");
        assert_eq!(run("kill -SEGV $$").unwrap(), "was ended by signal 11");
        assert_eq!(run("echo last words >&2; exit 1").unwrap(), "ended with status 1");
        assert_eq!(tail(log.path()), "last words");
    }
}
