//! `cuota-bench import`: result files of GPU-Virt-Bench 1.0.0, and a comparison report in its Markdown, as published columns.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::published::{Class, Column, Figure, Published, SCHEMA};

/// The version whose files are understood.
const VERSION: &str = "1.0.0";
/// A refusal below this was decided in the process, in µs: the driver takes longer to answer.
const REFUSED_IN_PROCESS_US: f64 = 10.0;
/// What failed in a run may be so much of it before it says nothing.
const FAILED_PART: f64 = 0.1;
/// Dense FP16 tensor-core peaks in TFLOP/s, by a part of the card's name, for cards that were published on. From NVIDIA's GA102
/// white paper, appendix A.
const PEAK_TFLOPS: [(&str, f64); 2] = [("RTX 3080", 119.0), ("RTX 3090", 142.0)];

/// Reads `files` and writes them as published columns to `out`.
pub fn main(files: &[PathBuf], out: &Path) -> Result<ExitCode> {
    let mut columns = Vec::new();
    for file in files {
        let text = fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read: give a file of GPU-Virt-Bench", file.display()))?;
        let source = file.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let read =
            if text.trim_start().starts_with('{') { json(&text, &source) } else { markdown(&text, &source) };
        columns.extend(read.with_context(|| file.display().to_string())?);
    }
    let published = Published { schema: SCHEMA.to_owned(), columns };
    fs::write(out, published.to_text()?).with_context(|| {
        format!("the columns cannot be written to {}: choose another file with --out", out.display())
    })?;
    for column in &published.columns {
        eprintln!("{}: {} figures, {}", column.title(), column.figures.len(), column.evidence);
    }
    eprintln!("written: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// A result file of GPU-Virt-Bench, as far as it is used.
#[derive(Deserialize)]
struct File {
    benchmark_version: String,
    timestamp: String,
    system_name: String,
    gpu: Gpu,
    metrics: Vec<FileMetric>,
}

#[derive(Deserialize)]
struct Gpu {
    name: String,
    total_memory_mb: u64,
}

#[derive(Deserialize)]
struct FileMetric {
    id: String,
    unit: String,
    success: bool,
    value: Option<f64>,
    stats: Option<FileStats>,
}

#[derive(Deserialize)]
struct FileStats {
    p50: Option<f64>,
}

fn json(text: &str, source: &str) -> Result<Vec<Column>> {
    let file: File = serde_json::from_str(text).context(
        "it is JSON without the fields of a GPU-Virt-Bench result file (benchmark_version, gpu, metrics)",
    )?;
    if file.benchmark_version != VERSION {
        bail!(
            "it was written by GPU-Virt-Bench {}, and only {VERSION} is understood",
            file.benchmark_version
        );
    }
    let value = |metric: &FileMetric| metric.stats.as_ref().and_then(|stats| stats.p50).or(metric.value);
    let figures: BTreeMap<String, Figure> = file
        .metrics
        .iter()
        .filter(|metric| metric.success)
        .filter_map(|metric| {
            Some((metric.id.clone(), figure(&metric.id, &file.gpu.name, value(metric)?, &metric.unit)))
        })
        .collect();
    let failed = file.metrics.iter().filter(|metric| !metric.success).count();
    let (class, evidence) = class(&figures, failed, file.metrics.len(), visible_share(&file.gpu));
    Ok(vec![Column {
        name: file.system_name,
        source: source.to_owned(),
        card: file.gpu.name.trim_start_matches("NVIDIA ").to_owned(),
        date: file.timestamp.get(..10).unwrap_or(&file.timestamp).to_owned(),
        class,
        evidence,
        figures,
    }])
}

/// The part of the card's memory that the run saw, for cards whose whole is known: an RTX 3080 of 10 GB shows 9,866 MB.
fn visible_share(gpu: &Gpu) -> Option<f64> {
    let whole_mb = if gpu.name.contains("RTX 3080") { 9_866.0 } else { return None };
    Some(gpu.total_memory_mb as f64 / whole_mb)
}

fn figure(id: &str, card: &str, value: f64, unit: &str) -> Figure {
    let unit = match unit {
        "us" => "µs",
        "TFLOPS" => "TFLOP/s",
        "alloc/s" => "allocs/s",
        other => other,
    };
    let peak = PEAK_TFLOPS.iter().find(|(name, _)| card.contains(name)).map(|(_, peak)| *peak);
    let impossible = peak
        .filter(|peak| id == "LLM-001" && value > *peak)
        .map(|peak| format!("{value:.0} TFLOP/s on a card whose FP16 peak is {peak:.0}"));
    Figure { value, unit: unit.to_owned(), impossible }
}

/// What a run shows, from how much failed, what it saw of the card's memory, and how fast a request over the limit was
/// refused.
fn class(
    figures: &BTreeMap<String, Figure>,
    failed: usize,
    all: usize,
    visible: Option<f64>,
) -> (Class, String) {
    if all == 0 || failed as f64 > FAILED_PART * all as f64 {
        return (Class::Broken, format!("{failed} of {all} metrics failed"));
    }
    let refusal_us = figures.get("IS-002").map(|figure| figure.value);
    let mut signs = Vec::new();
    if let Some(share) = visible.filter(|share| *share < 0.99) {
        signs.push(format!("{:.0} % of the card's memory is visible", 100.0 * share));
    }
    if let Some(us) = refusal_us.filter(|us| *us < REFUSED_IN_PROCESS_US) {
        signs.push(format!("a request over the limit is refused in {us} µs, without the driver"));
    }
    match signs.is_empty() {
        false => (Class::LimitActive, signs.join("; ")),
        true => (
            Class::NativeLike,
            "no sign of a limit: the whole card is visible, refusals take the driver's time".to_owned(),
        ),
    }
}

/// The report in Markdown: a `### ID: name` section a metric, in it a line with the unit and a table with a row a system.
fn markdown(text: &str, source: &str) -> Result<Vec<Column>> {
    let after = |mark: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(mark))?;
        Some(line.split(" (").next().unwrap_or(line).trim().to_owned())
    };
    let date = after("**Benchmark Date:**").context("it has no line `**Benchmark Date:**`")?;
    let card = after("**GPU:**").context("it has no line `**GPU:**`")?;
    let mut systems: BTreeMap<String, BTreeMap<String, Figure>> = BTreeMap::new();
    for section in text.split("\n### ").skip(1) {
        let Some((id, _)) = section.split_once(':').filter(|(id, _)| is_id(id)) else { continue };
        for (system, value) in rows(section) {
            systems
                .entry(system)
                .or_default()
                .insert(id.to_owned(), figure(id, &card, value, &unit(section)));
        }
    }
    if systems.is_empty() {
        bail!("it has no section `### ID: name` with a table of systems");
    }
    let column = |(name, figures): (String, BTreeMap<String, Figure>)| {
        let (class, evidence) = class(&figures, 0, figures.len(), None);
        let card = card.trim_start_matches("NVIDIA ").to_owned();
        Column { name, source: source.to_owned(), card, date: date.clone(), class, evidence, figures }
    };
    Ok(systems.into_iter().map(column).collect())
}

fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(category, number)| {
        category.chars().all(|c| c.is_ascii_uppercase()) && number.len() == 3 && number.parse::<u16>().is_ok()
    })
}

/// The unit's sign: the one in parentheses, else the word itself.
fn unit(section: &str) -> String {
    let line = section.lines().find_map(|line| line.strip_prefix("**Unit:**")).unwrap_or_default();
    let text = line.split('|').next().unwrap_or_default().trim();
    match text.split_once('(').and_then(|(_, rest)| rest.split_once(')')) {
        Some((sign, _)) if ["µs", "ns", "ms", "%"].contains(&sign) => sign.to_owned(),
        _ => match text.split_whitespace().next().unwrap_or_default() {
            "Microseconds" => "µs".to_owned(),
            "Boolean" => "bool".to_owned(),
            "Allocations" => "allocs/s".to_owned(),
            "Coefficient" => "CV".to_owned(),
            word => word.to_lowercase().replace("tflops", "TFLOPS"),
        },
    }
}

/// The systems of a section's table with the median, or where there is none the mean or the result.
fn rows(section: &str) -> Vec<(String, f64)> {
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let Some(header) = section.lines().find(|line| line.starts_with("| System ")).map(cells) else {
        return Vec::new();
    };
    let wanted = ["Median", "Mean", "Mean CV", "Result"];
    let row = |line: &str| {
        let cells = cells(line);
        let system = cells.first()?.strip_prefix("**")?.strip_suffix("**")?.to_owned();
        let value = wanted.iter().find_map(|name| {
            let place = header.iter().position(|head| head == name)?;
            number(cells.get(place)?)
        })?;
        Some((system, value))
    };
    section.lines().filter(|line| line.starts_with("| **")).filter_map(row).collect()
}

/// `84,123`, `26.59%` or `PASS (1.000)` as a number.
fn number(cell: &str) -> Option<f64> {
    let inner =
        cell.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or(cell, |(inner, _)| inner);
    inner.replace(',', "").trim_end_matches('%').trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(system: &str, memory_mb: u64, refusal_us: f64, failed: usize) -> String {
        let metric = |id: &str, unit: &str, value: f64, success: bool| {
            serde_json::json!({"id": id, "name": id, "unit": unit, "success": success, "value": value + 1.0,
                "stats": {"mean": value + 2.0, "p50": value}})
        };
        let mut metrics =
            vec![metric("IS-002", "us", refusal_us, true), metric("LLM-001", "TFLOPS", 2_400.0, true)];
        metrics.extend((0..failed).map(|_| metric("OH-001", "us", 0.0, false)));
        serde_json::json!({"benchmark_version": "1.0.0", "timestamp": "2025-11-26T21:57:45Z", "system_name": system,
            "gpu": {"name": "NVIDIA GeForce RTX 3080", "total_memory_mb": memory_mb}, "metrics": metrics})
        .to_string()
    }

    fn column(system: &str, memory_mb: u64, refusal_us: f64, failed: usize) -> Column {
        json(&file(system, memory_mb, refusal_us, failed), "x.json").unwrap().remove(0)
    }

    #[test]
    fn a_file_becomes_a_column_with_card_date_and_medians() {
        let column = column("hami", 9_866, 207.7, 0);
        assert_eq!((column.card.as_str(), column.date.as_str()), ("GeForce RTX 3080", "2025-11-26"));
        let figure = &column.figures["IS-002"];
        assert_eq!((figure.value, figure.unit.as_str()), (207.7, "µs"));
    }

    #[test]
    fn classes_are_told_by_what_the_file_shows() {
        assert_eq!(column("hami", 9_866, 207.7, 0).class, Class::NativeLike);
        let active = column("fcsp_slice50", 4_933, 0.034, 0);
        assert_eq!(active.class.text(&active.name), "FCSP active");
        assert!(
            active.evidence.contains("50 %") && active.evidence.contains("0.034 µs"),
            "{}",
            active.evidence
        );
        assert_eq!(column("hami", 9_866, 207.7, 2).class, Class::Broken);
    }

    #[test]
    fn a_figure_beyond_the_cards_peak_is_marked_with_the_arithmetic() {
        let why = column("hami", 9_866, 207.7, 0).figures["LLM-001"].impossible.clone().unwrap();
        assert!(why.contains("2400") && why.contains("119"), "{why}");
    }

    #[test]
    fn a_file_of_something_else_is_refused_in_words() {
        let error = format!("{:#}", json("{\"a\": 1}", "x").unwrap_err());
        assert!(error.contains("GPU-Virt-Bench result file"), "{error}");
        let other = file("hami", 1, 1.0, 0).replace("1.0.0", "2.0.0");
        assert!(json(&other, "x").unwrap_err().to_string().contains("only 1.0.0"));
        assert!(markdown("# nothing", "x").is_err());
    }

    #[test]
    fn the_report_is_read_section_by_section() {
        let text = "# R\n**Benchmark Date:** 2025-11-29\n**GPU:** NVIDIA GeForce RTX 3080 (Compute 8.6)\n\
            \n### OH-001: Kernel Launch Latency\n**Unit:** Microseconds (µs) | **Lower is Better**\n\n\
            | System | Mean | Median |\n|---|---|---|\n| **Native** | 6.26 | 4.35 |\n| **HAMi** | 6.04 | - |\n\
            \n### IS-005: Isolation\n**Unit:** Boolean | **1.0**\n\n| System | Result |\n|---|---|\n| **HAMi** | ✅ PASS (1.000) |\n\
            \n### LLM-002: KV\n**Unit:** Allocations per second | x\n\n| System | Mean |\n|---|---|\n| **HAMi** | 72,765 |\n\
            \n### Category Winners\n| Category | Winner |\n";
        let columns = markdown(text, "seed.md").unwrap();
        let [hami, native] = &columns[..] else { panic!("{columns:?}") };
        assert_eq!(native.figures["OH-001"], Figure { value: 4.35, unit: "µs".to_owned(), impossible: None });
        assert_eq!(hami.figures["OH-001"].value, 6.04);
        assert_eq!(hami.figures["IS-005"].value, 1.0);
        assert_eq!(
            (hami.figures["LLM-002"].value, hami.figures["LLM-002"].unit.as_str()),
            (72_765.0, "allocs/s")
        );
        assert_eq!(hami.class, Class::NativeLike);
    }
}
