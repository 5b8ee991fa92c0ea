//! The files that a reader gets: Markdown, HTML and CSV beside results.json.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::ReportArguments;
use crate::published::{Column, Published};
use crate::results::Results;
use crate::{csv, html, judge, prepare, report};

/// Writes the reports of a results file again.
pub fn main(arguments: &ReportArguments) -> Result<ExitCode> {
    let mut results = Results::read(&arguments.results)?;
    judge::judge(&mut results);
    let mut columns = Vec::new();
    for path in &arguments.published {
        columns.extend(Published::read(path)?.columns);
    }
    let beside = arguments.results.parent().filter(|path| *path != Path::new("")).unwrap_or(Path::new("."));
    let folder = arguments.out.as_deref().unwrap_or(beside);
    prepare::prepare_folder(folder)?;
    let written = write_all(&results, &columns, folder)?;
    eprintln!("written: {written}");
    Ok(ExitCode::SUCCESS)
}

/// Writes report.md, report.html and results.csv into `folder`; returns their paths, for a message.
pub fn write_all(results: &Results, published: &[Column], folder: &Path) -> Result<String> {
    let files = [
        ("report.md", report::markdown(results, published)),
        ("report.html", html::page(results, published)),
        ("results.csv", csv::table(results)),
    ];
    for (name, text) in &files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| {
            format!("{} cannot be written: choose another folder with --out", path.display())
        })?;
    }
    let [report, html, csv] = files.map(|(name, _)| name);
    Ok(format!("{report}, {html} and {csv} in {}", folder.display()))
}
