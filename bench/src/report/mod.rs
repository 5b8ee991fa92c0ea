//! The report as Markdown: headlines, a section a metric by category, scorecard, key differences, and what the words mean.

mod section;
mod summary;

pub use section::winner_text;
pub use summary::summary;

use std::fmt::Write;

use crate::category;
use crate::judge::{self, is_native};
use crate::metrics::Comparison;
use crate::published::Column;
use crate::results::Results;
use crate::scorecard::{self, Difference, Score};
use crate::stats::{POWER_PERCENT, SIGNIFICANCE, Verdict};
use crate::system::Proof;
use crate::units::bytes_text;

/// The whole report.
pub fn markdown(results: &Results, published: &[Column]) -> String {
    let systems: Vec<&str> = results.order().into_iter().filter(|name| !is_native(name)).collect();
    let mut text = format!("# Native and {}, metric by metric\n\n", systems.join(", "));
    text.push_str(&environment(results, published));
    text.push_str("## Headlines\n\n");
    text.push_str(&summary(results));
    for category in &category::ALL {
        let metrics: Vec<_> = results.metrics.iter().filter(|metric| category.has(&metric.id)).collect();
        if !metrics.is_empty() {
            let _ = writeln!(text, "\n---\n\n## {} metrics", category.name);
        }
        for metric in metrics {
            text.push_str(&section::section(metric, &results.order(), published));
        }
    }
    text.push_str(&scorecard(results));
    text.push_str(&key_differences(results));
    text.push_str(&words(results));
    text
}

/// Where and how it was measured.
fn environment(results: &Results, published: &[Column]) -> String {
    let environment = &results.environment;
    let mut text = String::new();
    if environment.simulated {
        text.push_str(
            "**Simulated: measured on the software GPU. No figure here says anything about a real GPU.**\n\n",
        );
    }
    let device = &environment.device;
    let _ =
        writeln!(text, "- Device: {} ({}), {}", device.name, bytes_text(device.memory_bytes), device.uuid);
    let driver = environment.driver_version.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "- Driver: {driver}, CUDA {}", device.cuda_version);
    let _ = writeln!(
        text,
        "- Date: {}; memory limit: {}; cap on GPU time where a metric sets one: {} %",
        environment.date,
        bytes_text(environment.limit_bytes),
        environment.compute_percent
    );
    let _ = writeln!(
        text,
        "- Machine: {}, Linux {}, clock {} ({} ns a reading)",
        environment.cpu, environment.kernel, environment.clock_source, environment.clock_cost_ns
    );
    let _ = writeln!(text, "- Command: `{}`", environment.command.join(" "));
    for name in results.order() {
        let record = &environment.systems[name];
        let library = match (&record.library, &record.library_sha256) {
            (Some(library), Some(sha256)) => format!("; `{library}`, SHA-256 {sha256}"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "- System {name}: memory limit: {}{}{library}",
            proof_text(record.proof.as_ref()),
            record
                .compute_proof
                .as_ref()
                .map_or(String::new(), |proof| { format!("; cap on GPU time: {}", proof_text(Some(proof))) })
        );
    }
    for column in published {
        let _ = writeln!(
            text,
            "- Published, for reference and in no ranking: {} from {}: {}",
            column.title(),
            column.source,
            column.evidence
        );
    }
    text.push('\n');
    text
}

fn proof_text(proof: Option<&Proof>) -> String {
    match proof {
        Some(Proof::Enforced(what)) => format!("enforced: {what}"),
        Some(Proof::NotEnforced(why)) => format!("NOT ENFORCED: {why}"),
        Some(Proof::Failed(why)) => format!("failed: {why}"),
        Some(Proof::NoLimit) | None => "none".to_owned(),
    }
}

/// The table of verdicts by category.
fn scorecard(results: &Results) -> String {
    let mut text = String::from("\n---\n\n## Scorecard\n\n");
    text.push_str("| category | system | better than native | tie | worse | pass | fail | measured, no baseline | not enforced | not measured | failed | wins | shares the first place |\n");
    text.push_str(&format!("|{}\n", "---|".repeat(13)));
    for (category, scores) in scorecard::scores(results) {
        for (system, score) in scores {
            let name = category.map_or("**all**", |category| category.name);
            let Score { better, tie, worse, passed, not_passed, alone, .. } = score;
            let Score { not_enforced, not_measured, failed, wins, shared, .. } = score;
            let _ = writeln!(
                text,
                "| {name} | {system} | {better} | {tie} | {worse} | {passed} | {not_passed} | {alone} | {not_enforced} | {not_measured} | {failed} | {wins} | {shared} |"
            );
        }
    }
    text.push_str("\nA win is a metric in which a system beats every other one that shares the GPU; native is no candidate.\n");
    text
}

/// What is no tie, the largest first.
fn key_differences(results: &Results) -> String {
    let mut text = String::from("\n## Key differences\n\n");
    let differences = scorecard::differences(results);
    if differences.is_empty() {
        let _ = writeln!(text, "{}", no_difference(results));
    }
    for difference in differences {
        let _ = writeln!(text, "- {}", sentence(&difference));
    }
    text
}

/// What stands where differences would, when there is none.
pub fn no_difference(results: &Results) -> &'static str {
    match judge::family(results, false).is_empty() {
        true => "Nothing here is compared with native.",
        false => "None was found: every comparison with native is a tie.",
    }
}

/// One difference as a sentence.
pub fn sentence(difference: &Difference<'_>) -> String {
    let Difference { metric, name, system, verdict } = difference;
    let what = match (&system.ratio, &system.added, &system.added_in_process) {
        (Some(ratio), ..) if metric.comparison == Comparison::RatioToNative => {
            format!("{} of native", summary::percent(ratio))
        }
        (_, _, Some(added)) if system.verdict_in_process == Some(*verdict) => {
            format!("{} {} added, in process", summary::signed(added), metric.unit)
        }
        (_, Some(added), _) => format!("{} {} added", summary::signed(added), metric.unit),
        _ => String::new(),
    };
    let word = if *verdict == Verdict::Better { "better" } else { "worse" };
    format!("**{} {}**: {name} is {word} than native: {what}", metric.id, metric.name)
}

/// What the verdicts rest on.
fn words(results: &Results) -> String {
    let family = judge::family(results, false).len();
    format!(
        "\n## What the words mean\n\n\
         - A sample is a fresh process, or a fixed set of them; systems take turns. Values are medians of samples with 95 % \
         bootstrap intervals.\n\
         - *better*, *worse*: the interval of the paired difference to native does not hold zero, and a trimmed t test finds \
         it at {} % after Holm's correction for all {family} comparisons with native in this file. Everything else is a *tie*: no \
         difference was found, which is not the same as none. *Detectable* is the smallest one that would be found in \
         {POWER_PERCENT} of 100 such runs, with the correction.\n\
         - *not enforced*: the system did not hold the tenant to the limit that the figure presumes, so it has no score. *not \
         measured*: it cannot be measured here. *failed*: too few samples were good.\n",
        100.0 * SIGNIFICANCE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::published::Published;

    #[test]
    fn it_is_laid_out_by_category_metric_scorecard_and_differences() {
        let text = markdown(&example::results(), &[]);
        let places: Vec<usize> = [
            "# Native and cuota, hami",
            "## Headlines",
            "## Overhead metrics",
            "### OH-002: Allocation latency",
            "**Winner:**",
            "## Isolation metrics",
            "### IS-002",
            "## Scorecard",
            "## Key differences",
            "## What the words mean",
        ]
        .iter()
        .map(|part| text.find(part).unwrap_or_else(|| panic!("{part} is missing: {text}")))
        .collect();
        assert!(places.is_sorted());
        assert!(!text.contains("imulated"));
    }

    #[test]
    fn simulated_figures_are_labelled_first() {
        let mut results = example::results();
        results.environment.simulated = true;
        results.metrics.iter_mut().for_each(|metric| metric.simulated = true);
        let text = markdown(&results, &[]);
        assert!(text.find("**Simulated").unwrap() < text.find("## Headlines").unwrap());
    }

    #[test]
    fn published_columns_are_named_with_card_date_and_class_and_never_win() {
        let seed = Published::read(std::path::Path::new("seed")).unwrap();
        let text = markdown(&example::results(), &seed.columns);
        assert!(text.contains("| HAMi (published, GeForce RTX 3080, 2025-11-29; native-like)"), "{text}");
        let winners: Vec<&str> = text.lines().filter(|line| line.starts_with("**Winner:**")).collect();
        assert!(winners.iter().all(|line| !line.contains("HAMi")), "{winners:?}");
    }

    #[test]
    fn a_difference_is_told_with_its_size() {
        let text = markdown(&example::results(), &[]);
        assert!(
            text.contains("- **OH-002 Allocation latency**: cuota is worse than native: +0.052 [+0.051, +0.053] µs added, in process"),
            "{text}"
        );
    }
}
