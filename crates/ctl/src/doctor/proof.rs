//! Runs the probe under a quota, as a user would run a program, and collects what it tells.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use cuota_region::{DIR_VARIABLE, TENANT_VARIABLE};

use crate::home::Home;
use crate::probe::Fact;

/// After this the probe is ended. `cuInit` alone can take tens of seconds on a machine with many GPUs and no
/// persistence daemon.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the probe is run.
pub(crate) struct Terms<'a> {
    pub(crate) home: &'a Path,
    pub(crate) library: &'a Path,
    pub(crate) sim: bool,
    /// The value for `--device`.
    pub(crate) device: Option<String>,
    /// Whether the quota is set for the probe, or the directory's owner has set it.
    pub(crate) set_quota: bool,
    /// The quota in force for the probe, bytes.
    pub(crate) quota_bytes: u64,
}

/// What came of it.
pub(crate) struct Outcome {
    /// What the probe told.
    pub(crate) facts: Vec<Fact>,
    /// Why there is no more of it, where it did not end well.
    pub(crate) trouble: Option<String>,
}

/// Runs the probe.
pub(crate) fn run(terms: &Terms<'_>) -> Outcome {
    match start(terms) {
        Ok(child) => collect(child, PATIENCE),
        Err(error) => {
            Outcome { facts: Vec::new(), trouble: Some(format!("the probe did not start: {error}")) }
        }
    }
}

/// Runs the probe as a program that wants to get out would run itself: not through `cuota run`, and with a directory of
/// its own whose policy limits nothing. Returns how large the GPU looks to it, bytes; `None` where it gets nowhere.
pub(crate) fn attempt_with_own_directory(
    terms: &Terms<'_>,
    sim: Option<&Path>,
) -> std::io::Result<Option<u64>> {
    let own = std::env::temp_dir().join(format!("cuota-doctor-{}", std::process::id()));
    if let Ok(home) = Home::at(&own) {
        drop(home.operate());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.env_remove("LD_PRELOAD").env_remove(TENANT_VARIABLE).env(DIR_VARIABLE, &own);
    if let Some(folder) = sim {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command.arg("probe").arg("--quota").arg(terms.quota_bytes.to_string());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let outcome = child.map(|child| collect(child, PATIENCE));
    let _ = std::fs::remove_dir_all(own);
    let views = |fact: &Fact| if let Fact::Views(views) = fact { Some(views.info_total_bytes) } else { None };
    Ok(outcome?.facts.iter().find_map(views))
}

fn start(terms: &Terms<'_>) -> std::io::Result<Child> {
    let this = std::env::current_exe()?;
    let mut command = Command::new(&this);
    command.arg("--dir").arg(terms.home).arg("run").arg("--lib").arg(terms.library);
    if terms.set_quota {
        command.arg("--memory").arg(terms.quota_bytes.to_string());
    }
    if terms.sim {
        command.arg("--sim");
    }
    if let Some(device) = &terms.device {
        command.arg("--device").arg(device);
    }
    command.arg("--").arg(this).arg("probe").arg("--quota").arg(terms.quota_bytes.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

fn collect(mut child: Child, patience: Duration) -> Outcome {
    let (facts_to, facts_from) = mpsc::channel();
    let lines = child.stdout.take().map(BufReader::new);
    std::thread::spawn(move || {
        for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            // A line that is no fact is a library's chatter.
            if let Ok(fact) = serde_json::from_str::<Fact>(&line) {
                let _ = facts_to.send(fact);
            }
        }
    });
    let mut errors = child.stderr.take();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.as_mut().map(|errors| errors.take(64 << 10).read_to_end(&mut text));
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let (mut facts, deadline) = (Vec::new(), Instant::now() + patience);
    let in_time = loop {
        match facts_from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(fact) => facts.push(fact),
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait();
    let said = errors.join().unwrap_or_default();
    let trouble = match status {
        _ if !in_time => Some(format!("the probe did not end within {} s", patience.as_secs())),
        Ok(status) if status.success() => None,
        // It has said itself what was wrong.
        Ok(status)
            if status.code().is_some()
                && matches!(facts.last(), Some(Fact::Failed { .. } | Fact::NoDriver { .. })) =>
        {
            None
        }
        Ok(status) => {
            Some(format!("the probe ended with {status}{}{said}", if said.is_empty() { "" } else { ": " }))
        }
        Err(error) => Some(format!("the probe was lost: {error}")),
    };
    Outcome { facts, trouble }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn what_was_told_before_a_crash_is_kept() {
        let script = r#"echo chatter; echo '{"fact":"mapped","libcuota":null}'; echo why >&2; kill -9 $$"#;
        let outcome = collect(shell(script), PATIENCE);
        assert_eq!(outcome.facts, [Fact::Mapped { libcuota: None }]);
        let trouble = outcome.trouble.unwrap();
        assert!(trouble.contains("signal: 9") && trouble.contains("why"), "{trouble}");
    }

    #[test]
    fn a_probe_that_hangs_is_ended() {
        let outcome = collect(shell("exec sleep 1000"), Duration::from_millis(20));
        assert!(outcome.trouble.unwrap().contains("did not end"));
    }
}
