//! A daemon that a system needs beside its tenants: started before its first tenant, stopped when the run ends, however it
//! ends short of SIGKILL.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How to start and stop one, with every placeholder replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) start: Vec<String>,
    pub(super) stop: Vec<String>,
    pub(super) stop_input: String,
    pub(super) variables: BTreeMap<String, String>,
}

/// One that was started; stopped when dropped.
pub(super) struct Daemon(Plan);

impl Daemon {
    /// Starts it: the command must return with status 0 and leave it running.
    pub(super) fn start(plan: Plan) -> Result<Self> {
        run(&plan.start, "", &plan.variables)?;
        Ok(Self(plan))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = run(&self.0.stop, &self.0.stop_input, &self.0.variables) {
            eprintln!("cuota-bench: warning: a daemon that this run started may still run: {error:#}");
        }
    }
}

fn run(words: &[String], input: &str, variables: &BTreeMap<String, String>) -> Result<()> {
    let Some((program, rest)) = words.split_first() else { bail!("a daemon's command is empty") };
    // Not captured: what the daemon inherits stays open as long as it lives.
    let mut child = Command::new(program)
        .args(rest)
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("`{program}` could not be started"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input has ended, and its status says how.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` ended with {status}", words.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn plan(folder: &Path, start: &str) -> Plan {
        let words = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        Plan {
            start: words(start),
            stop: words("cat >\"$FOLDER/stopped\""),
            stop_input: "quit\n".to_owned(),
            variables: BTreeMap::from([("FOLDER".to_owned(), folder.display().to_string())]),
        }
    }

    #[test]
    fn what_was_started_is_told_to_stop_when_the_run_ends() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(plan(folder.path(), "touch \"$FOLDER/started\"")).unwrap();
        assert!(folder.path().join("started").exists() && !folder.path().join("stopped").exists());
        drop(daemon);
        assert_eq!(fs::read_to_string(folder.path().join("stopped")).unwrap(), "quit\n");
    }

    #[test]
    fn one_that_does_not_start_is_an_error_and_is_not_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let error = Daemon::start(plan(folder.path(), "exit 3")).err().unwrap().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(!folder.path().join("stopped").exists());
    }
}
