//! What the probe's facts prove.

use crate::probe::{Ask, Fact, Lookup, Taken, Views};
use crate::size::show_bytes;

use super::report::{Check, Mark};

const SECTION: &str = "proof";

/// The driver's unit of plain memory that the books count with, bytes (`cuota_governor::physical`).
const BLOCK_BYTES: u64 = 2 << 20;

const SUCCESS: u32 = 0;
const OUT_OF_MEMORY: u32 = 2;
const NOT_SUPPORTED: u32 = 801;
const NOT_FOUND: u32 = 500;

/// What a tenant can at least be granted of its quota less contexts and code, in thousandths.
const GRANTABLE: u64 = 990;

/// Under what the probe ran.
pub(crate) struct Circumstances {
    /// Its quota, bytes.
    pub(crate) quota_bytes: u64,
    /// What the device had free, bytes; where it is too little, a refusal proves nothing.
    pub(crate) free_bytes: Option<u64>,
    /// Whether the library is in this command, too, which then sees a GPU of the size of the quota.
    pub(crate) sees_the_quota_only: bool,
}

fn problem(id: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check::not_ok(Mark::Problem, SECTION, id, found, advice)
}

const REPORT: &str = "report this with the output of `cuota doctor --json`: quotas do not hold here";

/// Judges each fact.
pub(crate) fn judge(facts: &[Fact], at: &Circumstances) -> Vec<Check> {
    let lookups: Vec<&Lookup> =
        facts.iter().filter_map(|fact| if let Fact::Lookups(l) = fact { Some(l) } else { None }).collect();
    let mut checks: Vec<Check> = Vec::new();
    for fact in facts {
        match fact {
            Fact::NoDriver { .. } | Fact::Lookups(_) => {}
            Fact::Mapped { libcuota } => checks.push(mapped(libcuota.as_deref())),
            Fact::Driver { libcuda, version } => checks.push(driver(libcuda.as_deref(), *version)),
            Fact::Device { .. } => checks.push(look_ups(&lookups)),
            Fact::Views(views) => checks.push(size_shown(views, at)),
            Fact::Blocks { rows } => checks.push(blocks(rows)),
            Fact::Fill { granted_bytes, refused, own_before_bytes, own_full_bytes, again } => {
                // Over the quota, it is the refusal that failed.
                if *granted_bytes <= at.quota_bytes {
                    checks.push(granted(*granted_bytes, *own_before_bytes, at));
                }
                checks.push(refusal(*granted_bytes, *refused, at));
                checks.push(given_back(*again));
                checks.extend(own_full_bytes.map(|full| never_over(full, at)));
            }
            Fact::Refusals { rows } => checks.push(ways_to_ask(rows, at)),
            Fact::Failed { call, status } => checks.push(failed(call, *status)),
        }
    }
    checks
}

fn mapped(path: Option<&str>) -> Check {
    match path {
        Some(path) => Check::ok(SECTION, "loaded", format!("{path} is in the probe")),
        None => problem(
            "loaded",
            "libcuota.so is not in the probe, though it was preloaded",
            "see whether ld.so says why: run `cuota run -- true` and read its messages; a noexec mount is one reason",
        ),
    }
}

fn driver(path: Option<&str>, version: i32) -> Check {
    let path = path.unwrap_or("a file that cannot be told");
    Check::ok(SECTION, "libcuda", format!("{path}, CUDA {}.{}", version / 1000, version % 1000 / 10))
}

/// No way may lead around; and the ways that programs use must lead to the hooks, not merely to nothing.
fn look_ups(lookups: &[&Lookup]) -> Check {
    let around: Vec<String> =
        lookups.iter().filter(|lookup| !lookup.around.is_empty()).map(|l| way_around(l)).collect();
    if !around.is_empty() {
        let found = format!("these lead around the shim: {}", around.join("; "));
        return problem(
            "look_ups",
            found,
            format!("make sure that the library is cuota's own, of this version; if it is, {REPORT}"),
        );
    }
    let empty = lookups.iter().filter(|l| l.hooked == 0 && !l.way.contains("dlvsym")).map(|l| l.way.as_str());
    let empty: Vec<&str> = empty.collect();
    if !empty.is_empty() {
        return problem("look_ups", format!("these find no hook at all: {}", empty.join("; ")), REPORT);
    }
    let hooked: usize = lookups.iter().map(|lookup| lookup.hooked).sum();
    Check::ok(
        SECTION,
        "look_ups",
        format!("{} ways to look functions up, {hooked} look-ups: each leads to the hook", lookups.len()),
    )
}

/// A way with one example; the JSON has them all.
fn way_around(lookup: &Lookup) -> String {
    let first = lookup.around.first().map_or("", String::as_str);
    match lookup.around.len() {
        0 | 1 => format!("{} ({first})", lookup.way),
        more => format!("{} ({first}, and {} more)", lookup.way, more - 1),
    }
}

fn size_shown(views: &Views, at: &Circumstances) -> Check {
    let quota = at.quota_bytes;
    let shown = [
        ("cuDeviceTotalMem", Some(views.device_total_bytes)),
        ("cuMemGetInfo", Some(views.info_total_bytes)),
        ("nvmlDeviceGetMemoryInfo", views.nvml_total_bytes),
        ("nvmlDeviceGetMemoryInfo_v2", views.nvml_v2_total_bytes),
    ];
    let wrong = |(name, bytes): &(&str, Option<u64>)| {
        bytes.filter(|bytes| *bytes != quota).map(|bytes| format!("{name} shows {}", show_bytes(bytes)))
    };
    let wrong: Vec<String> = shown.iter().filter_map(wrong).collect();
    if !wrong.is_empty() {
        let found = format!("the quota is {}, but {}", show_bytes(quota), wrong.join(", "));
        return problem("size_shown", found, REPORT);
    }
    let asked: Vec<&str> = shown.iter().filter(|(_, bytes)| bytes.is_some()).map(|(name, _)| *name).collect();
    Check::ok(
        SECTION,
        "size_shown",
        format!("the GPU looks {} large to {}", show_bytes(quota), asked.join(", ")),
    )
}

fn blocks(rows: &[Taken]) -> Check {
    let holds = |row: &Taken| {
        let most = row.asked_bytes.next_multiple_of(BLOCK_BYTES);
        // One byte may find room in a block that the context has.
        let exact = row.asked_bytes >= BLOCK_BYTES;
        row.taken_bytes.zip(row.left_bytes).map(|(taken, left)| {
            (if exact { taken == most } else { taken == 0 || taken == most }) && left == 0
        })
    };
    if rows.iter().any(|row| holds(row).is_none()) {
        return Check::not_ok(
            Mark::Unknown,
            SECTION,
            "block_rule",
            "NVML does not say what this process takes, so it cannot be seen that memory comes in blocks of 2 MiB",
            "nothing, where NVML cannot say it (WSL, some vGPUs); in a container it needs a driver that translates \
             process ids",
        );
    }
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| holds(row) == Some(false))
        .map(|row| {
            let amount = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), show_bytes);
            format!(
                "{} took {} and left {}",
                show_bytes(row.asked_bytes),
                amount(row.taken_bytes),
                amount(row.left_bytes)
            )
        })
        .collect();
    if wrong.is_empty() {
        return Check::ok(
            SECTION,
            "block_rule",
            "holds: plain memory is taken and given back in blocks of 2 MiB",
        );
    }
    Check::not_ok(
        Mark::Warning,
        SECTION,
        "block_rule",
        format!("this driver counts otherwise than by blocks of 2 MiB: {}", wrong.join("; ")),
        "what is booked can differ from what is taken; report this with the output of `cuota doctor --json`",
    )
}

fn granted(granted: u64, own_before: Option<u64>, at: &Circumstances) -> Check {
    let overhead = own_before.unwrap_or(0);
    let net = at.quota_bytes.saturating_sub(overhead);
    let text = format!(
        "{} granted of {} less {} for context and code",
        show_bytes(granted),
        show_bytes(at.quota_bytes),
        own_before.map_or_else(|| "an unknown amount".to_owned(), show_bytes)
    );
    if granted == 0 {
        let advice =
            "a context takes about 0.5 GiB of a quota; on a GPU where it takes more, ask for larger quotas";
        return problem("granted", text, advice);
    }
    if own_before.is_some() && granted.saturating_mul(1000) < net.saturating_mul(GRANTABLE) {
        let advice = "less than 99% can be used; report this with the output of `cuota doctor --json`";
        return Check::not_ok(Mark::Warning, SECTION, "granted", text, advice);
    }
    Check::ok(SECTION, "granted", text)
}

fn has_room(at: &Circumstances) -> Option<bool> {
    at.free_bytes
        .map(|free| free >= at.quota_bytes.saturating_add(at.quota_bytes / 4).saturating_add(BLOCK_BYTES))
}

fn refusal(granted: u64, refused: Option<u32>, at: &Circumstances) -> Check {
    if refused != Some(OUT_OF_MEMORY) || granted > at.quota_bytes {
        let found =
            format!("{} were granted under a quota of {}", show_bytes(granted), show_bytes(at.quota_bytes));
        return problem("refused", found, REPORT);
    }
    match has_room(at) {
        Some(true) => Check::ok(
            SECTION,
            "refused",
            format!(
                "more is refused with CUDA_ERROR_OUT_OF_MEMORY while the GPU has {} free",
                show_bytes(at.free_bytes.unwrap_or(0).saturating_sub(granted))
            ),
        ),
        _ if at.sees_the_quota_only => no_room(
            "more is refused; this command is under the library, too, and cannot see whether the GPU had room",
            at,
        ),
        Some(false) => no_room("the GPU itself is nearly full, so a refusal proves nothing", at),
        None => no_room("more is refused; NVML does not say whether the GPU had room", at),
    }
}

fn no_room(found: &str, at: &Circumstances) -> Check {
    Check::not_ok(Mark::Unknown, SECTION, "refused", found, when_there_is_room(at))
}

/// What to do to see that it was the quota that refused.
fn when_there_is_room(at: &Circumstances) -> &'static str {
    match at.sees_the_quota_only {
        true => "run `cuota doctor` outside of the container, or compare with what `nvidia-smi` shows there",
        false => "the GPU may have refused it itself: run `cuota doctor` again when it has more free memory",
    }
}

fn given_back(again: u32) -> Check {
    match again {
        SUCCESS => Check::ok(SECTION, "given_back", "what was freed is granted again at once"),
        status => {
            problem("given_back", format!("what was freed was not granted again: {}", name(status)), REPORT)
        }
    }
}

fn never_over(full: u64, at: &Circumstances) -> Check {
    let text = format!("NVML counted {} for the full probe", show_bytes(full));
    if full <= at.quota_bytes {
        return Check::ok(SECTION, "never_over", format!("{text}, within {}", show_bytes(at.quota_bytes)));
    }
    problem("never_over", format!("{text}, over its quota of {}", show_bytes(at.quota_bytes)), REPORT)
}

fn ways_to_ask(rows: &[Ask], at: &Circumstances) -> Check {
    let granted: Vec<&str> =
        rows.iter().filter(|row| row.status == SUCCESS).map(|row| row.call.as_str()).collect();
    if !granted.is_empty() {
        let found = format!("more than the whole quota was granted by {}", granted.join(", "));
        return problem("every_way", found, REPORT);
    }
    let is_absent = |row: &&Ask| matches!(row.status, NOT_SUPPORTED | NOT_FOUND);
    let (absent, refused): (Vec<&Ask>, Vec<&Ask>) = rows.iter().partition(is_absent);
    let odd: Vec<String> = refused
        .iter()
        .filter(|row| row.status != OUT_OF_MEMORY)
        .map(|row| format!("{} with {}", row.call, name(row.status)))
        .collect();
    let calls = |rows: &[&Ask]| rows.iter().map(|row| row.call.as_str()).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "{} refused by {}",
        show_bytes(rows.first().map_or(0, |row| row.asked_bytes)),
        calls(&refused)
    );
    if !absent.is_empty() {
        text = format!("{text} (this driver has no {})", calls(&absent));
    }
    if !odd.is_empty() {
        let found = format!("refused, but not as out of memory: {}", odd.join(", "));
        return Check::not_ok(
            Mark::Warning,
            SECTION,
            "every_way",
            found,
            "programs may not understand it; report this",
        );
    }
    if has_room(at) != Some(true) {
        return Check::not_ok(Mark::Unknown, SECTION, "every_way", text, when_there_is_room(at));
    }
    Check::ok(SECTION, "every_way", text)
}

fn failed(call: &str, status: u32) -> Check {
    let found = format!("{call} failed: {}", name(status));
    match (call, status) {
        ("cuInit", 100) => {
            Check::not_ok(Mark::Unknown, SECTION, "probe", found, "there is no GPU that this user can see")
        }
        (_, OUT_OF_MEMORY) => problem(
            "probe",
            found,
            "a context takes about 0.5 GiB of a quota: ask for a larger one; with free GPU memory at hand, see \
             `cuota ps` for who has it",
        ),
        _ => problem(
            "probe",
            found,
            "see whether the same program works without cuota; if it does, report this",
        ),
    }
}

fn name(status: u32) -> String {
    let known = match status {
        0 => "CUDA_SUCCESS",
        1 => "CUDA_ERROR_INVALID_VALUE",
        2 => "CUDA_ERROR_OUT_OF_MEMORY",
        3 => "CUDA_ERROR_NOT_INITIALIZED",
        100 => "CUDA_ERROR_NO_DEVICE",
        201 => "CUDA_ERROR_INVALID_CONTEXT",
        500 => "CUDA_ERROR_NOT_FOUND",
        801 => "CUDA_ERROR_NOT_SUPPORTED",
        803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        999 => "CUDA_ERROR_UNKNOWN",
        other => return format!("CUDA error {other}"),
    };
    format!("{known} ({status})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const AT: Circumstances =
        Circumstances { quota_bytes: GIB, free_bytes: Some(80 * GIB), sees_the_quota_only: false };

    fn ask(status: u32) -> Ask {
        Ask { call: "cuMemAlloc".into(), asked_bytes: GIB, status }
    }

    fn lookup(way: &str, hooked: usize, around: &[&str]) -> Lookup {
        Lookup { way: way.into(), hooked, absent: 0, around: around.iter().map(|&s| s.into()).collect() }
    }

    #[test]
    fn one_way_around_is_a_problem_that_names_it() {
        let (good, bad) =
            (lookup("handle", 40, &[]), lookup("next", 39, &["cuMemAlloc_v2 in /lib/libcuda.so.1"]));
        assert_eq!(look_ups(&[&good]).mark, Mark::Ok);
        let check = look_ups(&[&good, &bad]);
        assert_eq!(check.mark, Mark::Problem);
        assert!(check.found.contains("next (cuMemAlloc_v2 in"));
    }

    #[test]
    fn a_way_that_finds_no_hook_proves_nothing_good() {
        assert_eq!(look_ups(&[&lookup("handle", 0, &[])]).mark, Mark::Problem);
        assert_eq!(look_ups(&[&lookup("handle", 1, &[]), &lookup("dlvsym", 0, &[])]).mark, Mark::Ok);
    }

    #[test]
    fn a_gpu_that_looks_larger_than_the_quota_is_a_problem() {
        let views = |total| Views {
            device_total_bytes: GIB,
            info_total_bytes: total,
            info_free_bytes: 0,
            nvml_total_bytes: Some(GIB),
            nvml_v2_total_bytes: None,
        };
        assert_eq!(size_shown(&views(GIB), &AT).mark, Mark::Ok);
        assert_eq!(size_shown(&views(80 * GIB), &AT).mark, Mark::Problem);
    }

    #[test]
    fn a_refusal_on_a_full_gpu_proves_nothing() {
        assert_eq!(refusal(GIB / 2, Some(2), &AT).mark, Mark::Ok);
        let full = Circumstances { free_bytes: Some(GIB), ..AT };
        assert_eq!(refusal(GIB / 2, Some(2), &full).mark, Mark::Unknown);
        let inside = refusal(GIB / 2, Some(2), &Circumstances { sees_the_quota_only: true, ..full });
        assert!(
            inside.mark == Mark::Unknown && inside.found.contains("under the library"),
            "{}",
            inside.found
        );
        assert_eq!(refusal(2 * GIB, Some(2), &AT).mark, Mark::Problem);
        assert_eq!(refusal(GIB / 2, None, &AT).mark, Mark::Problem);
    }

    #[test]
    fn more_than_the_quota_granted_in_any_way_is_a_problem() {
        assert_eq!(ways_to_ask(&[ask(2), ask(0)], &AT).mark, Mark::Problem);
        assert_eq!(ways_to_ask(&[ask(2), ask(801)], &AT).mark, Mark::Ok);
        assert_eq!(ways_to_ask(&[ask(2), ask(1)], &AT).mark, Mark::Warning);
    }

    #[test]
    fn the_block_rule_is_judged_by_what_nvml_counts() {
        let row = |asked, taken, left| Taken { asked_bytes: asked, taken_bytes: taken, left_bytes: left };
        let (one, two, four) = (BLOCK_BYTES, Some(BLOCK_BYTES), Some(2 * BLOCK_BYTES));
        assert_eq!(
            blocks(&[row(1, Some(0), Some(0)), row(one, two, Some(0)), row(one + 1, four, Some(0))]).mark,
            Mark::Ok
        );
        assert_eq!(blocks(&[row(one + 1, two, Some(0))]).mark, Mark::Warning);
        assert_eq!(blocks(&[row(one, two, two)]).mark, Mark::Warning);
        assert_eq!(blocks(&[row(one, None, None)]).mark, Mark::Unknown);
    }

    #[test]
    fn over_the_quota_by_nvml_is_a_problem() {
        assert_eq!(never_over(GIB, &AT).mark, Mark::Ok);
        assert_eq!(never_over(GIB + 1, &AT).mark, Mark::Problem);
    }
}
