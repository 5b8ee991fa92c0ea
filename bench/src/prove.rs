//! The proofs of a run: which systems hold a tenant to its limits. Natively first: where native is refused or slowed down
//! too, it proves nothing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::environment::{Environment, sha256};
use crate::system::{self, Proof, ProofReport, Session, System};
use crate::units::bytes_text;
use crate::worker;

/// Proves the memory limits, and records the library that was found in each tenant.
pub fn memory(session: &Session, systems: &[System], environment: &mut Environment) -> Result<()> {
    let report = |system: &System| -> Result<ProofReport> {
        ProofReport::from_fields(&session.launcher(system).run(worker::PROOF, "")?.facts)
    };
    let limits = systems.iter().any(|system| system.profile.limits_memory);
    if limits {
        let native = report(&systems[0]).context("the proof's control, natively")?;
        if !native.single_granted || native.granted_bytes < system::ceiling_bytes(session.limit_bytes) {
            bail!(
                "natively only {} could be allocated, not an eighth over the limit of {}: the device is in use. Stop \
                 its other users, or ask for less with --memory",
                bytes_text(native.granted_bytes),
                bytes_text(session.limit_bytes)
            );
        }
    }
    let shown = session.shown();
    for system in systems {
        let (proof, mapped) = match system.profile.limits_memory {
            false => (Proof::NoLimit, None),
            true => match report(system) {
                Ok(report) => (
                    system::judge(&report, session.limit_bytes, system.profile.daemon.is_some()),
                    report.library,
                ),
                Err(error) => (Proof::Failed(format!("{error:#}")), None),
            },
        };
        announce(&system.label, "memory limit", &proof);
        if let Some(record) = environment.systems.get_mut(&system.label) {
            record.proof = Some(proof.map_text(|text| shown.text(text)));
            // What was found in the process is the truth, also where the system chose its library itself.
            if let Some(library) = mapped {
                record.library_sha256 = Some(sha256(Path::new(&library))?);
                record.library = Some(shown.path(Path::new(&library)));
            }
        }
    }
    Ok(())
}

/// Tenants of the proof of a cap. One of them alone was held to 58 % of the native rate by a system that let the others have 92 to 97.
const PROOFS: usize = 3;

/// Proves the caps on GPU time: the rates of saturating tenants under a cap, one after the other, against the native rate.
pub fn compute(session: &Session, systems: &[System], environment: &mut Environment) -> Result<()> {
    // What does not hold its memory limit has no score in any row.
    let is_out = |system: &System| {
        let memory = environment.systems.get(&system.label).and_then(|record| record.proof.as_ref());
        matches!(memory, Some(Proof::NotEnforced(_) | Proof::Failed(_)))
    };
    let capped: Vec<&System> =
        systems.iter().filter(|system| system.profile.limits_compute && !is_out(system)).collect();
    let labels: BTreeSet<String> = capped.iter().map(|system| system.label.clone()).collect();
    let rate = |system: &System, percent: u32| -> Result<f64> {
        let launcher = session.launcher(system).with_compute(percent);
        let work = launcher.run(worker::COMPUTE_PROOF, "")?;
        let rate = work.facts.get("units_per_s").context("the tenant did not say how fast it was")?;
        Ok(rate.parse()?)
    };
    let shares = |system: &System, native: f64| -> Result<Vec<f64>> {
        (0..PROOFS).map(|_| Ok(rate(system, session.compute_percent)? / native)).collect()
    };
    let native = match capped.is_empty() {
        true => Ok(f64::NAN),
        false => rate(&session.native, 100).context("the rate of a native tenant, to hold caps against"),
    };
    for system in systems {
        if system.profile.limits_compute && !labels.contains(&system.label) {
            continue;
        }
        let proof = match (system.profile.limits_compute, &native) {
            (false, _) => Proof::NoLimit,
            (true, Err(error)) => Proof::Failed(format!("{error:#}")),
            (true, Ok(native)) => match shares(system, *native) {
                Ok(shares) => system::judge_compute(&shares, session.compute_percent),
                Err(error) => Proof::Failed(format!("{error:#}")),
            },
        };
        announce(&system.label, "cap on GPU time", &proof);
        if let Some(record) = environment.systems.get_mut(&system.label) {
            record.compute_proof = Some(proof.map_text(|text| session.shown().text(text)));
        }
    }
    Ok(())
}

fn announce(label: &str, limit: &str, proof: &Proof) {
    match proof {
        Proof::NotEnforced(why) => eprintln!("{label}: {limit} NOT ENFORCED: {why}"),
        Proof::Failed(why) => eprintln!("{label}: {limit} cannot be proved: {why}"),
        Proof::Enforced(what) => eprintln!("{label}: {limit}: {what}"),
        Proof::NoLimit => {}
    }
}
