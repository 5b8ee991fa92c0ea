//! Going on with results that are there: a run that was broken off, or one of other metrics.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::metrics;
use crate::results::{Results, Status};

/// What a run that writes to `folder` starts from: the results there when it resumes, else `fresh`, and those that are there
/// are kept under another name.
///
/// # Errors
/// When the results there are of another card, driver, system or limit.
pub fn begin(folder: &Path, resume: bool, fresh: Results) -> Result<Results> {
    let path = folder.join("results.json");
    if !path.exists() {
        return Ok(fresh);
    }
    if !resume {
        let kept = folder.join("results.previous.json");
        fs::rename(&path, &kept).with_context(|| {
            format!("the earlier {} cannot be kept as {}", path.display(), kept.display())
        })?;
        eprintln!("the results that were in {} are now {}", folder.display(), kept.display());
        return Ok(fresh);
    }
    let mut earlier = Results::read(&path)?;
    let mut differences = earlier.environment.differences(&fresh.environment);
    if earlier.schema != fresh.schema {
        differences.push(format!("schema: {} and {}", earlier.schema, fresh.schema));
    }
    if earlier.order() != fresh.order() {
        differences.push(format!("systems: {} and {}", earlier.order().join(" "), fresh.order().join(" ")));
    }
    if !differences.is_empty() {
        bail!(
            "--resume: the results in {} were measured otherwise: {}. Give another folder with --out, or leave --resume out",
            folder.display(),
            differences.join("; ")
        );
    }
    // What failed is tried again.
    earlier.metrics.retain(|metric| metric.systems.values().all(|system| system.status != Status::Failed));
    let mut environment = fresh.environment;
    // Each metric says its own.
    environment.effort = environment.effort.filter(|effort| earlier.environment.effort == Some(*effort));
    for (name, record) in &mut environment.systems {
        let earlier = earlier.environment.systems.remove(name).and_then(|record| record.compute_proof);
        record.compute_proof = record.compute_proof.take().or(earlier);
    }
    for warning in earlier.environment.warnings {
        if !environment.warnings.contains(&warning) {
            environment.warnings.push(warning);
        }
    }
    Ok(Results { environment, ..earlier })
}

/// Whether `results` have the metric `id`.
pub fn has(results: &Results, id: &str) -> bool {
    results.metrics.iter().any(|metric| metric.id == id)
}

/// Where the metric `id` belongs among those of `results`, in the order of reports.
pub fn place(results: &Results, id: &str) -> usize {
    let rank = |id: &str| metrics::ALL.iter().position(|metric| metric.info().id == id).unwrap_or(usize::MAX);
    results.metrics.iter().position(|metric| rank(&metric.id) > rank(id)).unwrap_or(results.metrics.len())
}
