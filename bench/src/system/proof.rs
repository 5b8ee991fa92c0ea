//! The proof that a system is in the process and holds it to the limit. Without it there is no score: figures of a library
//! that did nothing would look excellent.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::gpu::{Gpu, Plain, fill};
use crate::units::{BLOCK_BYTES, bytes_text};
use crate::worker::{Request, Work, mapped_file};

/// What a proof found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "detail")]
pub enum Proof {
    /// The limit is in force.
    Enforced(String),
    /// The tenant runs and the limit is not in force.
    NotEnforced(String),
    /// The tenant could not run.
    Failed(String),
    /// The system has no limit to enforce.
    NoLimit,
}

impl Proof {
    /// The same with another text.
    #[must_use]
    pub fn map_text(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Enforced(text) => Self::Enforced(change(&text)),
            Self::NotEnforced(text) => Self::NotEnforced(change(&text)),
            Self::Failed(text) => Self::Failed(change(&text)),
            Self::NoLimit => Self::NoLimit,
        }
    }
}

/// The facts that the tenant side collects, as it writes them into a reply.
type ReportFields = BTreeMap<String, String>;

/// What the tenant side saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProofReport {
    /// The path of the system's library in the tenant's process, if it is there.
    pub library: Option<String>,
    /// One request just over the limit was granted.
    pub single_granted: bool,
    /// The sum of small requests that were granted, up to a quarter over the limit, in bytes.
    pub granted_bytes: u64,
}

impl ProofReport {
    fn to_fields(&self) -> ReportFields {
        let mut fields = BTreeMap::from([
            ("single_granted".to_owned(), self.single_granted.to_string()),
            ("granted_bytes".to_owned(), self.granted_bytes.to_string()),
        ]);
        fields.extend(self.library.clone().map(|library| ("library".to_owned(), library)));
        fields
    }

    /// Reads the fields back.
    pub fn from_fields(fields: &ReportFields) -> Result<Self> {
        let field = |name: &str| fields.get(name).with_context(|| format!("the proof lacks `{name}`"));
        Ok(Self {
            library: fields.get("library").cloned(),
            single_granted: field("single_granted")?.parse()?,
            granted_bytes: field("granted_bytes")?.parse()?,
        })
    }
}

/// The tenant side: asks for more than the limit at once, then in parts.
pub fn work(request: &Request) -> Result<Work> {
    let _gpu = Gpu::open(request.device)?;
    let mut plain = Plain;
    let over = usize::try_from(request.limit_bytes + BLOCK_BYTES)?;
    let single_granted = match plain.take(over) {
        Ok(taken) => {
            plain.give(taken)?;
            true
        }
        Err(error) if error.is_out_of_memory() => false,
        Err(error) => return Err(error).context("one allocation just over the limit"),
    };
    let ceiling_bytes = ceiling_bytes(request.limit_bytes);
    let filled = fill(request.limit_bytes, ceiling_bytes, |bytes| plain.take(bytes))
        .context("many allocations up to the limit")?;
    let report = ProofReport {
        library: request.loaded.as_deref().and_then(mapped_file),
        single_granted,
        granted_bytes: filled.granted_bytes,
    };
    Ok(Work { facts: report.to_fields(), ..Work::default() })
}

/// How far a proof goes beyond the limit: an eighth, so that the device needs no more room than that.
pub fn ceiling_bytes(limit_bytes: u64) -> u64 {
    limit_bytes + (limit_bytes / 8).next_multiple_of(BLOCK_BYTES)
}

/// What the tenant's report says about a limit of `limit_bytes`; `has_no_library` for a system that is a daemon.
pub fn judge(report: &ProofReport, limit_bytes: u64, has_no_library: bool) -> Proof {
    let limit = bytes_text(limit_bytes);
    // A daemon's system has no library of its own: what it refuses is all its proof.
    if !has_no_library && report.library.is_none() {
        return Proof::NotEnforced("its library is not mapped in the tenant's process".to_owned());
    }
    if report.single_granted {
        return Proof::NotEnforced(format!(
            "one allocation of 2 MiB more than the limit of {limit} was granted"
        ));
    }
    let granted = bytes_text(report.granted_bytes);
    if report.granted_bytes > limit_bytes {
        return Proof::NotEnforced(format!("{granted} were granted in parts under a limit of {limit}"));
    }
    if report.granted_bytes < limit_bytes / 2 {
        return Proof::Failed(format!(
            "only {granted} were granted under a limit of {limit}: refusing everything is not a limit"
        ));
    }
    Proof::Enforced(format!("{granted} granted under a limit of {limit}, what goes beyond is refused"))
}

/// What `shares`, the rates of saturating tenants under a cap of `percent` as parts of the native rate, one process each, say. The cap need
/// not be met, which is what metrics measure, but a fifth of the way to it must be gone by each: what holds a cap now and then enforces none.
pub fn judge_compute(shares: &[f64], percent: u32) -> Proof {
    let cap = f64::from(percent) / 100.0;
    let each: Vec<String> = shares.iter().map(|share| format!("{:.1}", 100.0 * share)).collect();
    let found = format!("{} % of the native rate under a cap of {percent} %", each.join(", "));
    let worst = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match worst {
        _ if percent >= 100 => {
            Proof::Failed("a cap of 100 % cannot be told from none: give less with --compute".to_owned())
        }
        _ if shares.iter().any(|share| !share.is_finite() || *share <= 0.0) => {
            Proof::Failed(format!("{found}: no progress is no cap"))
        }
        worst if worst > 1.0 - (1.0 - cap) / 5.0 => Proof::NotEnforced(found),
        _ => Proof::Enforced(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    fn report(loaded: bool, single_granted: bool, granted_bytes: u64) -> ProofReport {
        ProofReport { library: loaded.then(|| "/lib/libcuota.so".to_owned()), single_granted, granted_bytes }
    }

    #[test]
    fn a_library_that_does_nothing_is_not_enforced() {
        let proof = judge(&report(true, true, 9 * GIB), 8 * GIB, false);
        assert!(matches!(proof, Proof::NotEnforced(why) if why.contains("was granted")));
    }

    #[test]
    fn a_library_that_is_not_in_the_process_is_not_enforced_whatever_was_refused() {
        assert!(matches!(judge(&report(false, false, 7 * GIB), 8 * GIB, false), Proof::NotEnforced(_)));
    }

    #[test]
    fn a_limit_that_parts_can_exceed_is_not_enforced() {
        assert!(matches!(judge(&report(true, false, 9 * GIB), 8 * GIB, false), Proof::NotEnforced(_)));
    }

    #[test]
    fn refusing_everything_is_a_failure_and_no_limit() {
        assert!(matches!(judge(&report(true, false, GIB), 8 * GIB, false), Proof::Failed(_)));
    }

    #[test]
    fn a_limit_that_holds_is_enforced() {
        assert!(matches!(judge(&report(true, false, 7 * GIB), 8 * GIB, false), Proof::Enforced(_)));
    }

    #[test]
    fn a_daemon_is_proved_by_what_it_refuses() {
        let refused = report(false, false, 7 * GIB);
        assert!(matches!(judge(&refused, 8 * GIB, true), Proof::Enforced(_)));
        assert!(matches!(judge(&report(false, true, 9 * GIB), 8 * GIB, true), Proof::NotEnforced(_)));
    }

    #[test]
    fn a_cap_must_move_the_rate_and_let_something_through() {
        assert!(matches!(judge_compute(&[0.69], 50), Proof::Enforced(_)));
        assert!(matches!(judge_compute(&[0.97], 50), Proof::NotEnforced(why) if why.contains("97.0 %")));
        assert!(matches!(judge_compute(&[0.93], 90), Proof::Enforced(_)));
        assert!(matches!(judge_compute(&[0.5, 0.0], 50), Proof::Failed(_)));
        assert!(matches!(judge_compute(&[0.5, f64::NAN], 50), Proof::Failed(_)));
        assert!(matches!(judge_compute(&[1.0], 100), Proof::Failed(_)));
    }

    #[test]
    fn a_cap_that_is_held_now_and_then_is_not_enforced() {
        let now_and_then = judge_compute(&[0.58, 0.93, 0.57], 50);
        assert!(matches!(now_and_then, Proof::NotEnforced(why) if why.contains("58.0, 93.0, 57.0 %")));
    }

    #[test]
    fn the_report_survives_as_fields() {
        let report = report(true, false, 7 * GIB);
        assert_eq!(ProofReport::from_fields(&report.to_fields()).unwrap(), report);
        assert!(ProofReport::from_fields(&BTreeMap::new()).is_err());
    }
}
