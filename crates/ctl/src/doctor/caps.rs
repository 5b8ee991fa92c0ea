//! Who has a cap on GPU time, and what it did.

use super::report::Check;
use crate::home::Home;
use crate::ps;

/// Looks.
pub(crate) fn look(home: &Home) -> Check {
    let tenants: Vec<String> = ps::capped(home)
        .into_iter()
        .map(|[tenant, cap, used, waited]| format!("{tenant} {cap} (used {used}, waited {waited})"))
        .collect();
    let found = match tenants.is_empty() {
        true => "no tenant has one; `cuota run --compute 30%` and `cuota set` give one".to_owned(),
        false => tenants.join(", "),
    };
    Check::ok("cuota", "gpu_time_caps", found)
}
