//! The report as one HTML file: no network, no script, readable on a phone and on a wide screen, in light and in dark.

mod plots;
mod svg;

use std::fmt::Write;

use svg::escaped;

use crate::category;
use crate::judge::{Winner, is_native, verdict_text};
use crate::metrics::Comparison;
use crate::published::Column;
use crate::report;
use crate::results::{MetricResult, Results, Status, SystemResult};
use crate::scorecard::{self, Score};
use crate::stats::{Direction, quantile};
use crate::units::{bytes_text, value_text};

/// The whole page.
pub fn page(results: &Results, published: &[Column]) -> String {
    let systems: Vec<&str> = results.order().into_iter().filter(|name| !is_native(name)).collect();
    let title = escaped(&format!("cuota-bench: native and {}", systems.join(", ")));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{}</style></head><body>\n<h1>{title}</h1>\n",
        include_str!("style.css")
    );
    text.push_str(&environment(results, published));
    text.push_str(&scores(results));
    text.push_str(&matrix(results));
    text.push_str(&differences(results));
    for category in &category::ALL {
        let mut metrics = results.metrics.iter().filter(|metric| category.has(&metric.id)).peekable();
        if metrics.peek().is_some() {
            let _ = writeln!(text, "<h2>{}</h2>", category.name);
        }
        for metric in metrics {
            text.push_str(&section(results, metric, published));
        }
    }
    text.push_str("</body></html>\n");
    text
}

fn environment(results: &Results, published: &[Column]) -> String {
    let environment = &results.environment;
    let mut text = String::new();
    if environment.simulated {
        text.push_str("<p class=\"banner\">Simulated: measured on the software GPU. No figure here says anything about a real GPU.</p>\n");
    }
    let device = &environment.device;
    let _ = writeln!(
        text,
        "<p>{}, {}, driver {}, {}. Memory limit {}, cap on GPU time {} % where a metric sets one.</p>",
        escaped(&device.name),
        bytes_text(device.memory_bytes),
        escaped(environment.driver_version.as_deref().unwrap_or("unknown")),
        escaped(&environment.date),
        bytes_text(environment.limit_bytes),
        environment.compute_percent
    );
    for column in published {
        let _ = writeln!(
            text,
            "<p class=\"soft\">Published, for reference and in no ranking: {}, from {}: {}.</p>",
            escaped(&column.title()),
            escaped(&column.source),
            escaped(&column.evidence)
        );
    }
    for warning in &environment.warnings {
        let _ = writeln!(text, "<p class=\"loose\">{}</p>", escaped(warning));
    }
    text
}

fn scores(results: &Results) -> String {
    let mut text = String::from("<h2>Scorecard</h2>\n");
    let scores = scorecard::scores(results);
    if let Some((_, all)) = scores.last() {
        let _ = writeln!(text, "<div class=\"plots\">{}</div>", plots::verdicts(all));
    }
    text.push_str("<div class=\"scroll\"><table><tr><th>category</th><th>system</th><th>better</th><th>tie</th><th>worse</th><th>pass</th><th>fail</th><th>measured</th><th>not enforced</th><th>not measured</th><th>failed</th><th>wins</th><th>shared</th></tr>\n");
    for (category, systems) in &scores {
        for (name, score) in systems {
            let Score { better, tie, worse, passed, not_passed, alone, .. } = score;
            let Score { not_enforced, not_measured, failed, wins, shared, .. } = score;
            let _ = write!(
                text,
                "<tr><td>{}</td><td>{}</td>",
                category.map_or("all", |category| category.name),
                escaped(name)
            );
            for count in [
                better,
                tie,
                worse,
                passed,
                not_passed,
                alone,
                not_enforced,
                not_measured,
                failed,
                wins,
                shared,
            ] {
                let _ = write!(text, "<td>{count}</td>");
            }
            text.push_str("</tr>\n");
        }
    }
    text.push_str(
        "</table></div>\n<p class=\"soft\">Verdicts are against native and corrected for the number of questions; <em>measured</em>: native is no \
         baseline there; a win is a metric in which a system beats every other one that shares the GPU, <em>shared</em>: it cannot be told from the best.</p>\n",
    );
    text
}

/// Every verdict at a glance, each metric a link to its section.
fn matrix(results: &Results) -> String {
    let systems = results.order();
    let mut text = String::from(
        "<h2>All verdicts</h2>\n<div class=\"scroll\"><table class=\"matrix\"><tr><th>metric</th>",
    );
    for name in &systems {
        let _ = write!(text, "<th>{}</th>", escaped(name));
    }
    text.push_str("<th>winner</th></tr>\n");
    for metric in &results.metrics {
        let id = escaped(&metric.id);
        let _ = write!(text, "<tr><td><a href=\"#{id}\">{id}</a> {}</td>", escaped(&metric.name));
        for name in &systems {
            let cell = metric.systems.get(*name).map(|system| verdict_cell(metric, system));
            let _ = write!(text, "{}", cell.unwrap_or("<td>—</td>".to_owned()));
        }
        let _ = writeln!(text, "<td>{}</td></tr>", escaped(&winner(metric)));
    }
    text.push_str("</table></div>\n");
    text
}

fn winner(metric: &MetricResult) -> String {
    match &metric.winner {
        Some(Winner::System(name)) => name.clone(),
        Some(Winner::Tie(names)) => format!("tie: {}", names.join(", ")),
        None => "—".to_owned(),
    }
}

fn verdict_cell(metric: &MetricResult, system: &SystemResult) -> String {
    let word = verdict_text(metric, system);
    let class = match word.as_str() {
        "better" | "pass" => "better",
        "worse" | "FAIL" | "failed" => "worse",
        "not enforced" => "loose",
        _ => "tie",
    };
    format!("<td class=\"{class}\">{}</td>", escaped(&word))
}

fn differences(results: &Results) -> String {
    let mut text = String::from("<h2>Key differences</h2>\n<ul>\n");
    let all = scorecard::differences(results);
    if all.is_empty() {
        let _ = writeln!(text, "<li>{}</li>", report::no_difference(results));
    }
    for difference in all {
        let sentence = report::sentence(&difference).replace("**", "");
        let _ = writeln!(text, "<li>{}</li>", escaped(&sentence));
    }
    text.push_str("</ul>\n");
    text
}

fn section(results: &Results, metric: &MetricResult, published: &[Column]) -> String {
    let better = match (metric.comparison, metric.direction) {
        (Comparison::Pass, _) => "1 is a pass",
        (_, Direction::Lower) => "lower is better",
        (_, Direction::Higher) => "higher is better",
    };
    let mut text = format!(
        "<section class=\"metric\" id=\"{}\"><h3>{} {}</h3>\n<p class=\"soft\">{} in {}, {better}{}. Method: {}.</p>\n",
        escaped(&metric.id),
        escaped(&metric.id),
        escaped(&metric.name),
        escaped(&metric.headline),
        escaped(&metric.unit),
        if metric.simulated { ", simulated" } else { "" },
        escaped(&metric.method)
    );
    text.push_str(&table(results, metric, published));
    let _ = writeln!(text, "<p>Winner: {}</p>", escaped(&report::winner_text(metric)));
    let mut figures: Vec<String> = plots::samples(results, metric).into_iter().collect();
    figures.extend(results.order().into_iter().filter_map(|name| plots::cap_against_share(metric, name)));
    figures.extend(plots::curves(results, metric, plots::TIME_SERIES));
    figures.extend(plots::curves(results, metric, plots::DISTRIBUTION));
    if !figures.is_empty() {
        let _ = writeln!(text, "<div class=\"plots\">{}</div>", figures.join("\n"));
    }
    text.push_str(&remarks(metric));
    text.push_str(&series(results, metric));
    text.push_str("</section>\n");
    text
}

fn table(results: &Results, metric: &MetricResult, published: &[Column]) -> String {
    let mut text = String::from(
        "<div class=\"scroll\"><table><tr><th>system</th><th>median [95 %]</th><th>of native</th><th>added</th><th>verdict</th><th>detectable</th><th>p95</th><th>p99</th><th>samples</th></tr>\n",
    );
    for name in results.order() {
        let Some(system) = metric.systems.get(name) else { continue };
        let dash = || "—".to_owned();
        let measured = system.status == Status::Measured;
        let value = system.value.zip(system.ci95).filter(|_| measured).map_or_else(dash, |(value, ci95)| {
            let [low, high] = ci95.map(value_text);
            format!("{} [{low}, {high}]", value_text(value))
        });
        let ratio = system.ratio.as_ref().map_or_else(dash, |ratio| {
            let [low, high] = ratio.ci95.map(|end| value_text(100.0 * end));
            format!("{} % [{low}, {high}]", value_text(100.0 * ratio.value))
        });
        let added = system.added_in_process.or(system.added).map_or_else(dash, |added| {
            let [low, high] = added.ci95.map(value_text);
            let how = if system.added_in_process.is_some() { " in process" } else { "" };
            format!("{} [{low}, {high}]{how}", value_text(added.value))
        });
        let detectable = system
            .detectable_in_family_percent
            .map_or_else(dash, |percent| format!("{} %", value_text(percent)));
        let of = |q: f64| quantile(&system.samples, q).filter(|_| measured).map_or_else(dash, value_text);
        let _ = writeln!(
            text,
            "<tr><th>{}</th><td class=\"value\">{value}</td><td class=\"value\">{ratio}</td><td class=\"value\">{added}</td>{}<td>{detectable}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(name),
            verdict_cell(metric, system),
            of(0.95),
            of(0.99),
            system.samples.len()
        );
    }
    for column in published {
        let Some(figure) = column.figures.get(&metric.id) else { continue };
        let note = figure.impossible.as_ref().map_or(String::new(), |why| format!(" (impossible: {why})"));
        let _ = writeln!(
            text,
            "<tr class=\"published\"><td colspan=\"9\">{}: {} {}{}; not ranked</td></tr>",
            escaped(&column.title()),
            value_text(figure.value),
            escaped(&figure.unit),
            escaped(&note)
        );
    }
    text.push_str("</table></div>\n");
    text
}

fn remarks(metric: &MetricResult) -> String {
    let mut lines = Vec::new();
    for (name, system) in &metric.systems {
        lines.extend(system.reason.iter().map(|reason| format!("{name}: {reason}")));
        lines.extend(system.voids.iter().map(|void| format!("{name}: void: {void}")));
        if system.throttled > 0 {
            lines.push(format!("{name}: {} samples thrown away, the device was throttled", system.throttled));
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = lines.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    format!("<ul class=\"soft\">{}</ul>\n", lines.join(""))
}

/// Every series, folded away.
fn series(results: &Results, metric: &MetricResult) -> String {
    let mut names: Vec<&String> = metric.systems.values().flat_map(|system| system.series.keys()).collect();
    names.sort_by_key(|name| (**name != metric.headline, *name));
    names.dedup();
    if names.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "<details><summary>All {} series</summary><div class=\"scroll\"><table><tr><th>series</th><th>system</th><th>median [95 %]</th><th>p99 of calls</th><th>added</th></tr>\n",
        names.len()
    );
    for name in names {
        for system in results.order() {
            let Some(series) = metric.systems.get(system).and_then(|system| system.series.get(name)) else {
                continue;
            };
            let interval = |interval: &crate::stats::Interval| {
                let [low, high] = interval.ci95.map(value_text);
                format!("{} [{low}, {high}]", value_text(interval.value))
            };
            let _ = writeln!(
                text,
                "<tr><td>{}</td><td>{}</td><td class=\"value\">{} {}</td><td>{}</td><td class=\"value\">{}</td></tr>",
                escaped(name),
                escaped(system),
                interval(&series.value),
                escaped(&series.unit),
                series.p99.map_or(String::new(), value_text),
                series.added.as_ref().map_or(String::new(), interval)
            );
        }
    }
    text.push_str("</table></div></details>\n");
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::example;
    use crate::published::Published;

    fn html() -> String {
        page(&example::results(), &Published::read(Path::new("seed")).unwrap().columns)
    }

    #[test]
    fn the_page_needs_nothing_from_anywhere() {
        let page = html();
        for mark in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(mark), "{mark}");
        }
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let page = html();
        for name in [
            "html", "body", "table", "tr", "td", "th", "div", "section", "svg", "figure", "ul", "li",
            "details", "p", "text",
        ] {
            let opened =
                page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count();
            assert_eq!(opened, page.matches(&format!("</{name}>")).count(), "{name}");
        }
    }

    #[test]
    fn every_metric_is_linked_and_has_its_section_with_its_samples() {
        let page = html();
        for id in ["OH-002", "IS-002"] {
            assert!(page.contains(&format!("href=\"#{id}\"")) && page.contains(&format!("id=\"{id}\"")));
        }
        assert!(page.contains("not enforced") && page.contains("<circle"));
    }

    #[test]
    fn simulated_figures_carry_a_banner() {
        let mut results = example::results();
        assert!(!page(&results, &[]).contains("class=\"banner\""));
        results.environment.simulated = true;
        assert!(page(&results, &[]).contains("class=\"banner\""));
    }

    #[test]
    fn names_from_a_file_cannot_become_markup() {
        let mut results = example::results();
        results.metrics[0].name = "<img src=x>".to_owned();
        assert!(page(&results, &[]).contains("&lt;img src=x&gt;"));
    }
}
