//! What `doctor` says, as a table for people and as JSON for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use super::gpus::Gpu;
use super::protection::Protection;
use super::system::System;
use crate::probe::Fact;
use crate::status;

/// The JSON's version: raised when a field changes its meaning or goes; new fields do not raise it.
pub(crate) const SCHEMA: &str = "cuota.doctor/1";

/// How a check came out.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mark {
    /// As it should be.
    Ok,
    /// It could not be found out.
    Unknown,
    /// It holds, and there is something to know.
    Warning,
    /// A quota is not enforced, or cannot be.
    Problem,
}

/// One thing that was looked at.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    /// What it belongs to: a heading of the table.
    pub(crate) section: &'static str,
    /// What was looked at, by a name that stays.
    pub(crate) id: &'static str,
    /// How it came out.
    pub(crate) mark: Mark,
    /// What is so.
    pub(crate) found: String,
    /// What to do.
    pub(crate) advice: Option<String>,
}

impl Check {
    /// All is well.
    pub(crate) fn ok(section: &'static str, id: &'static str, found: impl Into<String>) -> Self {
        Check { section, id, mark: Mark::Ok, found: found.into(), advice: None }
    }

    /// Not so well: with what to do.
    pub(crate) fn not_ok(
        mark: Mark,
        section: &'static str,
        id: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Check { section, id, mark, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The whole.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) version: &'static str,
    /// Whether all of it is about the software GPU.
    pub(crate) simulated: bool,
    pub(crate) verdict: Verdict,
    pub(crate) checks: Vec<Check>,
    pub(crate) system: System,
    pub(crate) protection: Protection,
    pub(crate) gpus: Vec<Gpu>,
    /// What the probe told, as it told it.
    pub(crate) probe: Vec<Fact>,
}

/// What it comes to.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Quotas are enforced here.
    Enforcing,
    /// They are not, or it could not be shown.
    NotEnforcing,
    /// There is no GPU to enforce them on.
    NoGpu,
}

impl Verdict {
    /// By what was found; `gpu`: whether there is one.
    pub(crate) fn of(checks: &[Check], gpu: bool) -> Self {
        match checks.iter().map(|check| check.mark).max() {
            _ if !gpu => Verdict::NoGpu,
            Some(Mark::Problem) => Verdict::NotEnforcing,
            _ => Verdict::Enforcing,
        }
    }

    /// The exit status that says it.
    pub(crate) fn status(self) -> u8 {
        match self {
            Verdict::Enforcing => status::OK,
            Verdict::NotEnforcing => status::PROBLEM,
            Verdict::NoGpu => status::NO_GPU,
        }
    }
}

/// The report as a table, with what to do below each line that asks for it.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    let width = report.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut section = "";
    for check in &report.checks {
        if check.section != section {
            section = check.section;
            let simulated =
                if report.simulated && matches!(section, "gpu" | "proof") { " (simulated)" } else { "" };
            let _ = writeln!(text, "{}{section}{simulated}", if text.is_empty() { "" } else { "\n" });
        }
        let mark = match check.mark {
            Mark::Ok => "ok",
            Mark::Unknown => "?",
            Mark::Warning => "warning",
            Mark::Problem => "PROBLEM",
        };
        let _ = writeln!(text, "  {mark:<8} {:<width$}  {}", check.id, check.found);
        for line in check.advice.iter().flat_map(|advice| advice.lines()) {
            let _ = writeln!(text, "  {:<8} {:<width$}  -> {line}", "", "");
        }
    }
    let _ = writeln!(text, "\n{}", conclusion(report));
    text
}

fn conclusion(report: &Report) -> &'static str {
    match (report.verdict, report.simulated) {
        (Verdict::Enforcing, false) => "Memory quotas are enforced here.",
        (Verdict::Enforcing, true) => "Memory quotas are enforced on the software GPU.",
        (Verdict::NotEnforcing, _) => {
            "There are problems: do not count on quotas here until they are solved."
        }
        (Verdict::NoGpu, false) => {
            "There is no NVIDIA GPU or driver here, so there is nothing to share. `cuota doctor --sim` and \
             `cuota run --sim` work without one, on a GPU in software."
        }
        (Verdict::NoGpu, true) => "The software GPU cannot be used here.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_decides_and_no_gpu_decides_over_it() {
        let ok = Check::ok("a", "b", "c");
        let unknown = Check::not_ok(Mark::Unknown, "a", "b", "c", "d");
        let problem = Check::not_ok(Mark::Problem, "a", "b", "c", "d");
        assert_eq!(Verdict::of(&[ok.clone(), unknown], true), Verdict::Enforcing);
        assert_eq!(Verdict::of(&[ok.clone(), problem.clone(), ok], true), Verdict::NotEnforcing);
        assert_eq!(Verdict::of(&[problem], false), Verdict::NoGpu);
    }
}
