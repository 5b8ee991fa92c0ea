//! `cuota set`: changes the limits of a tenant, whether it runs or not.

use cuota_region::name::GpuId;
use cuota_region::policy::{Found, Limits, MemoryLimit};

use crate::claim;
use crate::cli::Set;
use crate::hami::Container;
use crate::home::Home;
use crate::status;

/// Changes a tenant's limits. Returns the exit status, after a message where something is wrong.
pub(crate) fn set(home: &Home, asked: &Set) -> u8 {
    match change(home, asked) {
        Ok(()) => status::OK,
        Err(error) => {
            eprintln!("cuota: {error:#}");
            status::PROBLEM
        }
    }
}

fn change(home: &Home, asked: &Set) -> anyhow::Result<()> {
    if asked.compute.is_none() && asked.memory.is_none() && asked.claim.is_empty() {
        anyhow::bail!(
            "nothing is to be changed\n  name a limit: --compute 30%, --memory 8GiB, --guarantee 20%"
        );
    }
    if let Some(container) = Container::of(home) {
        return container.set(asked);
    }
    let operator = home.operate()?;
    let policy = operator.writer.policy();
    let entries: Vec<_> = policy.rows().filter(|row| row.tenant == asked.tenant).collect();
    let has_file = home.tenants_path().join(format!("{}.v1", asked.tenant)).exists();
    if entries.is_empty() && !has_file {
        let names = known(policy.rows().map(|row| row.tenant.to_string()));
        anyhow::bail!("there is no tenant {} in {}\n  {names}", asked.tenant, home.path().display());
    }
    // A GPU's entry comes before the tenant's own: what is asked for all of them must hold on those too.
    let mut gpus: Vec<GpuId> = match asked.gpu {
        Some(gpu) => vec![gpu],
        None => entries.iter().map(|row| row.gpu).collect(),
    };
    if asked.gpu.is_none() && !gpus.contains(&GpuId::ANY) {
        gpus.push(GpuId::ANY);
    }
    let mut changes = Vec::new();
    for gpu in gpus {
        let before = match policy.look_up(&asked.tenant, gpu) {
            Found::Limits(limits) => limits,
            Found::Nothing | Found::Unsettled => Limits::of_memory(MemoryLimit::Unlimited),
        };
        let ephemeral = entries.iter().any(|row| row.limits.ephemeral);
        let before = Limits { memory: asked.memory.unwrap_or(before.memory), ephemeral, ..before };
        let limits = asked.claim.apply(asked.compute, before)?;
        claim::check(policy, &asked.tenant, gpu, limits)?;
        changes.push((gpu, limits));
    }
    // All of them or none.
    for (gpu, limits) in changes {
        claim::say_where_it_holds(limits);
        operator.writer.set(&asked.tenant, gpu, limits).map_err(|_| {
            anyhow::anyhow!(
                "the policy has no room: all its entries are taken\n  end tenants that are not needed"
            )
        })?;
    }
    Ok(())
}

fn known(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    match names.is_empty() {
        true => "none is here; `cuota run --tenant NAME -- COMMAND` makes one".to_owned(),
        false => format!("name one of {}; `cuota ps` lists them", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Claim;
    use cuota_governor::cap::Cap;
    use cuota_region::name::TenantName;

    fn asked(tenant: &str, gpu: Option<GpuId>, compute: Option<u32>) -> Set {
        let compute = compute.map(|ppm| Cap::from_ppm(ppm).unwrap());
        Set {
            tenant: TenantName::parse(tenant.as_bytes()).unwrap(),
            gpu,
            compute,
            memory: None,
            claim: Claim::default(),
        }
    }

    #[test]
    fn what_is_not_named_stays_and_what_is_asked_for_all_gpus_holds_on_each() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let (name, gpu) = (TenantName::parse(b"alice").unwrap(), GpuId::from_words([7, 9]));
        home.operate()
            .unwrap()
            .writer
            .set(&name, GpuId::ANY, Limits::of_memory(MemoryLimit::Bytes(5)))
            .unwrap();
        change(&home, &asked("alice", Some(gpu), Some(300_000))).unwrap();
        let on = |gpu| match home.policy().unwrap().unwrap().look_up(&name, gpu) {
            Found::Limits(limits) => (limits.memory, limits.compute.ppm()),
            other => panic!("{other:?}"),
        };
        assert_eq!(on(gpu), (MemoryLimit::Bytes(5), 300_000));
        assert_eq!(on(GpuId::ANY), (MemoryLimit::Bytes(5), 1_000_000));
        change(&home, &asked("alice", None, Some(500_000))).unwrap();
        assert_eq!((on(gpu).1, on(GpuId::ANY).1), (500_000, 500_000));
    }

    #[test]
    fn an_unknown_tenant_is_refused_with_those_that_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let error = change(&home, &asked("bob", None, Some(5))).unwrap_err().to_string();
        assert!(error.contains("no tenant bob") && error.contains("none is here"), "{error}");
        let alice = TenantName::parse(b"alice").unwrap();
        home.operate()
            .unwrap()
            .writer
            .set(&alice, GpuId::ANY, Limits::of_memory(MemoryLimit::Unlimited))
            .unwrap();
        let error = change(&home, &asked("bob", None, Some(5))).unwrap_err().to_string();
        assert!(error.contains("alice"), "{error}");
        let nothing = change(&home, &asked("alice", None, None)).unwrap_err().to_string();
        assert!(nothing.contains("--compute"), "{nothing}");
    }
}
