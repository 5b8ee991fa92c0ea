//! What can be asked of a GPU's time beside a cap: `--guarantee`, `--weight`, `--priority`, and the presets that stand for them.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use cuota_governor::cap::Cap;
use cuota_governor::entitlement::{self, Entitlement, MOST_WEIGHT, OverCommitted, Priority};
use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::{Limits, Policy, Row};

use crate::share;

/// What is asked for; what is left out stays as it is.
#[derive(Args, Clone, Default, Debug)]
pub(crate) struct Claim {
    /// Never less of the GPU's time than this while the tenant has work, such as 20%; none: no guarantee. Kept among
    /// tenants that take turns (docs/turns.md).
    #[arg(long, value_name = "SHARE", value_parser = share::parse_guarantee, conflicts_with = "preset", allow_hyphen_values = true)]
    pub(crate) guarantee: Option<u32>,

    /// Its part of what nobody is guaranteed, against the others' (100 where none is asked for).
    #[arg(long, value_name = "1..10000", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_WEIGHT)))]
    pub(crate) weight: Option<u32>,

    /// Who gets what nobody is guaranteed, where several want it.
    #[arg(long, value_enum, value_name = "WHICH")]
    pub(crate) priority: Option<Level>,

    /// With --compute SHARE: strict (cap and guarantee), balanced (guarantee; what is idle is lent), adaptive (that share while
    /// others want the rest); none: neither. What it guarantees is kept as --guarantee is.
    #[arg(long, value_enum, value_name = "WHICH")]
    pub(crate) preset: Option<PresetName>,
}

/// A priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Level {
    /// Let in at once; the others stay out while it is busy.
    High,
    /// As a rule.
    Normal,
    /// What the others leave.
    Low,
}

/// A preset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum PresetName {
    /// The share, never more and never less.
    Strict,
    /// The share at least.
    Balanced,
    /// The share while others want the rest.
    Adaptive,
    /// Neither a cap nor a guarantee.
    None,
}

impl Claim {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.guarantee.is_none() && self.weight.is_none() && self.priority.is_none() && self.preset.is_none()
    }

    /// What a tenant that had `before` has with this and a cap that may be asked for beside it.
    ///
    /// # Errors
    /// What does not go together.
    pub(crate) fn apply(&self, compute: Option<Cap>, before: Limits) -> anyhow::Result<Limits> {
        let (cap, mut entitlement) = match self.preset {
            None => (compute.unwrap_or(before.compute), before.entitlement),
            Some(name) => {
                let (cap, entitlement) = preset(name, compute)?;
                (cap, Entitlement { priority: before.entitlement.priority, ..entitlement })
            }
        };
        entitlement.guarantee_ppm = self.guarantee.unwrap_or(entitlement.guarantee_ppm);
        entitlement.weight = self.weight.unwrap_or(entitlement.weight);
        entitlement.priority = self.priority.map_or(entitlement.priority, |level| match level {
            Level::High => Priority::High,
            Level::Normal => Priority::Normal,
            Level::Low => Priority::Low,
        });
        if entitlement.guarantee_ppm > cap.ppm() {
            anyhow::bail!(
                "a guarantee of {} was asked for under a cap of {}\n  raise the cap with --compute, or ask for less",
                share::show_share(entitlement.guarantee_ppm),
                share::show_share(cap.ppm()),
            );
        }
        Ok(Limits { compute: cap, entitlement, ..before })
    }
}

fn preset(name: PresetName, compute: Option<Cap>) -> anyhow::Result<(Cap, Entitlement)> {
    let (preset, words) = match name {
        PresetName::Strict => (entitlement::Preset::Strict, "strict"),
        PresetName::Balanced => (entitlement::Preset::Balanced, "balanced"),
        PresetName::Adaptive => (entitlement::Preset::Adaptive, "adaptive"),
        PresetName::None => (entitlement::Preset::None, "none"),
    };
    match (compute, name) {
        (None, PresetName::None) => Ok(preset.of(Cap::FULL)),
        (Some(share), PresetName::Strict | PresetName::Balanced | PresetName::Adaptive) if share.binds() => {
            Ok(preset.of(share))
        }
        (_, PresetName::None) => {
            anyhow::bail!(
                "the preset none has no share\n  leave --compute away, or ask for a cap without a preset"
            )
        }
        _ => anyhow::bail!("the preset {words} needs a share\n  ask for one: --preset {words} --compute 30%"),
    }
}

/// Checks that all guarantees can be kept on each GPU, if `tenant` has these limits on `gpu` ([`GpuId::ANY`]: where it has none of its own).
///
/// # Errors
/// The sum, and where.
pub(crate) fn check(policy: Policy, tenant: &TenantName, gpu: GpuId, limits: Limits) -> anyhow::Result<()> {
    let asked_ppm = limits.entitlement.guarantee_ppm;
    if asked_ppm == 0 {
        return Ok(());
    }
    if *tenant == TenantName::DEFAULT {
        anyhow::bail!(
            "a guarantee was asked for default, whose limits are those of every tenant without its own: for how many is not known\n  \
             guarantee it to tenants by name"
        );
    }
    let rows: Vec<Row> = policy.rows().collect();
    let of = |tenant: &TenantName, on: GpuId| {
        let find = |gpu| rows.iter().find(|row| row.tenant == *tenant && row.gpu == gpu);
        find(on).or_else(|| find(GpuId::ANY)).map_or(0, |row| row.limits.entitlement.guarantee_ppm)
    };
    let has_own = |on: GpuId| rows.iter().any(|row| row.tenant == *tenant && row.gpu == on);
    let others: BTreeSet<[u64; 4]> =
        rows.iter().filter(|row| row.tenant != *tenant).map(|row| row.tenant.words()).collect();
    let mut gpus: Vec<GpuId> = match gpu {
        GpuId::ANY => rows.iter().map(|row| row.gpu).filter(|on| !has_own(*on)).collect(),
        _ => Vec::new(),
    };
    gpus.push(gpu);
    for on in gpus {
        let guaranteed =
            others.iter().filter_map(|words| TenantName::from_words(*words)).map(|other| of(&other, on));
        OverCommitted::check(asked_ppm, guaranteed).map_err(|refused| {
            let place = if on == GpuId::ANY { "each GPU".to_owned() } else { on.to_string() };
            anyhow::anyhow!(
                "{refused} (on {place})\n  ask for less, or lower another's with `cuota set TENANT --guarantee SHARE`; `cuota ps --json` lists them"
            )
        })?;
    }
    Ok(())
}

/// Says of what was asked for where it is not enforced.
pub(crate) fn say_where_it_holds(limits: Limits) {
    let usual = Entitlement::default();
    let Entitlement { guarantee_ppm, weight, priority } = limits.entitlement;
    // A strict share is held by its cap, whatever its guarantee.
    if guarantee_ppm != 0 || weight != usual.weight || priority != usual.priority {
        eprintln!(
            "cuota: note: guarantees, weights and priorities hold among tenants that take turns: not beside a process without cuota, nor in a container without an arena (docs/turns.md)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_region::policy::MemoryLimit;

    use crate::home::Home;

    const BEFORE: Limits = Limits::of_memory(MemoryLimit::Unlimited);

    fn cap(percent: u32) -> Cap {
        Cap::from_ppm(percent * 10_000).unwrap()
    }

    fn name(text: &str) -> TenantName {
        TenantName::parse(text.as_bytes()).unwrap()
    }

    fn guarantee(percent: u32) -> Claim {
        Claim { guarantee: Some(percent * 10_000), ..Claim::default() }
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let weighty = Claim { weight: Some(300), ..Claim::default() }.apply(None, BEFORE).unwrap();
        let high =
            Claim { priority: Some(Level::High), ..guarantee(20) }.apply(Some(cap(50)), weighty).unwrap();
        assert_eq!((high.entitlement.weight, high.entitlement.guarantee_ppm), (300, 200_000));
        assert_eq!((high.entitlement.priority, high.compute), (Priority::High, cap(50)));
        assert_eq!(Claim::default().apply(None, high).unwrap(), high);
    }

    #[test]
    fn a_preset_is_made_of_the_share_and_none_has_no_share() {
        let preset =
            |preset, compute| Claim { preset: Some(preset), ..Claim::default() }.apply(compute, BEFORE);
        let strict = preset(PresetName::Strict, Some(cap(30))).unwrap();
        assert_eq!((strict.compute, strict.entitlement.guarantee_ppm), (cap(30), 300_000));
        let balanced = preset(PresetName::Balanced, Some(cap(30))).unwrap();
        assert_eq!((balanced.compute, balanced.entitlement.guarantee_ppm), (Cap::FULL, 300_000));
        assert_eq!(preset(PresetName::None, None).unwrap(), BEFORE);
        for (name, compute) in [
            (PresetName::Strict, None),
            (PresetName::Adaptive, Some(Cap::FULL)),
            (PresetName::None, Some(cap(3))),
        ] {
            assert!(preset(name, compute).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_guarantee_above_the_cap_is_refused() {
        let error = guarantee(60).apply(Some(cap(50)), BEFORE).unwrap_err().to_string();
        assert!(error.contains("60%") && error.contains("50%") && error.contains("--compute"), "{error}");
    }

    #[test]
    fn guarantees_are_summed_on_each_gpu_and_refused_beyond_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let operator = home.operate().unwrap();
        let gpu = GpuId::from_words([7, 9]);
        let of = |percent| guarantee(percent).apply(None, BEFORE).unwrap();
        let set = |tenant: &str, gpu, percent| operator.writer.set(&name(tenant), gpu, of(percent)).unwrap();
        set("alice", GpuId::ANY, 60);
        set("bob", gpu, 30);
        let check =
            |tenant: &str, gpu, percent| check(operator.writer.policy(), &name(tenant), gpu, of(percent));
        assert!(check("carol", gpu, 10).is_ok());
        let error = check("carol", gpu, 20).unwrap_err().to_string();
        for part in ["20%", "90%", "110%", "10%", "GPU-00000000-0000-0007"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        // On other GPUs there is more, but what is asked for all of them must be had on each.
        assert!(check("carol", GpuId::ANY, 20).is_err());
        assert!(check("carol", GpuId::from_words([1, 1]), 40).is_ok());
        // Its own is not counted twice.
        assert!(check("alice", GpuId::ANY, 70).is_ok());
        assert!(check("default", GpuId::ANY, 1).unwrap_err().to_string().contains("by name"));
    }
}
