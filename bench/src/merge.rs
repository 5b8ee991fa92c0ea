//! `cuota-bench merge`: results of several runs, by metric, into one file. Only runs of one card, driver and set of limits
//! belong together.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::environment::Environment;
use crate::judge;
use crate::output;
use crate::prepare;
use crate::results::{Results, SCHEMA};
use crate::resume;

/// Merges `files` into results.json and reports in `out`. Where two have a metric, that of the later file stands.
pub fn main(files: &[PathBuf], out: &Path) -> Result<ExitCode> {
    let all = files.iter().map(|file| Results::read(file)).collect::<Result<Vec<_>>>()?;
    for (file, results) in files.iter().zip(&all).skip(1) {
        let mut differences = all[0].environment.differences(&results.environment);
        if all[0].schema != results.schema {
            // Their chances come from different tests, and one family needs one test.
            differences.push(format!("schema: {} and {}", all[0].schema, results.schema));
        }
        if !differences.is_empty() {
            bail!(
                "{} and {} were not measured alike: {}. Merge runs of one card, driver, set of limits and libraries",
                files[0].display(),
                file.display(),
                differences.join("; ")
            );
        }
    }
    prepare::prepare_folder(out)?;
    let merged = merge(all);
    merged.write(&out.join("results.json"))?;
    let written = output::write_all(&merged, &[], out)?;
    eprintln!("{} metrics of {} files; written: {written}", merged.metrics.len(), files.len());
    Ok(ExitCode::SUCCESS)
}

/// The files as one, judged anew: the family of comparisons has grown.
fn merge(all: Vec<Results>) -> Results {
    let mut merged =
        Results { schema: SCHEMA.to_owned(), environment: Environment::default(), metrics: Vec::new() };
    for (number, results) in all.into_iter().enumerate() {
        for metric in results.metrics {
            merged.metrics.retain(|earlier| earlier.id != metric.id);
            let place = resume::place(&merged, &metric.id);
            merged.metrics.insert(place, metric);
        }
        match number {
            0 => merged.environment = results.environment,
            _ => absorb(&mut merged.environment, results.environment),
        }
    }
    judge::judge(&mut merged);
    merged
}

/// Takes over what only the later run knows.
fn absorb(environment: &mut Environment, later: Environment) {
    // Each metric says its own.
    environment.effort = environment.effort.filter(|effort| later.effort == Some(*effort));
    let places = environment.systems.len();
    for (name, mut record) in later.systems {
        match environment.systems.get_mut(&name) {
            Some(known) => known.compute_proof = known.compute_proof.take().or(record.compute_proof),
            None => {
                record.order += places;
                environment.systems.insert(name, record);
            }
        }
    }
    for warning in later.warnings {
        if !environment.warnings.contains(&warning) {
            environment.warnings.push(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::worker::Effort;

    fn parts() -> Vec<Results> {
        let whole = example::results();
        let part = |place: usize| Results { metrics: vec![whole.metrics[place].clone()], ..whole.clone() };
        vec![part(1), part(0)]
    }

    #[test]
    fn metrics_of_several_runs_stand_in_the_order_of_reports() {
        let merged = merge(parts());
        let ids: Vec<&str> = merged.metrics.iter().map(|metric| metric.id.as_str()).collect();
        assert_eq!(ids, ["OH-002", "IS-002"]);
    }

    #[test]
    fn the_later_file_stands_where_two_have_a_metric() {
        let mut all = parts();
        let mut again = all[1].clone();
        again.metrics[0].run.date = "later".to_owned();
        all.push(again);
        let merged = merge(all);
        assert_eq!(merged.metrics.len(), 2);
        assert_eq!(merged.metrics[0].run.date, "later");
    }

    #[test]
    fn a_quick_and_a_full_run_together_are_neither() {
        let with = |efforts: [Effort; 2]| {
            let mut all = parts();
            all.iter_mut().zip(efforts).for_each(|(one, effort)| one.environment.effort = Some(effort));
            merge(all).environment.effort
        };
        assert_eq!(with([Effort::Quick, Effort::Quick]), Some(Effort::Quick));
        assert_eq!(with([Effort::Quick, Effort::Full]), None);
    }

    #[test]
    fn a_system_that_only_the_later_run_has_comes_last() {
        let mut all = parts();
        let environment = &mut all[1].environment;
        environment.systems.insert("mps".to_owned(), environment.systems["cuota"].clone());
        assert_eq!(merge(all).order(), ["native", "cuota", "hami", "mps"]);
    }

    #[test]
    fn runs_on_different_cards_are_not_merged() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = parts();
        all[1].environment.device.name = "NVIDIA A100".to_owned();
        let paths: Vec<PathBuf> = ["a.json", "b.json"].iter().map(|name| folder.path().join(name)).collect();
        all.iter().zip(&paths).for_each(|(results, path)| results.write(path).unwrap());
        let error = main(&paths, &folder.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("card: NVIDIA H100 80GB HBM3 and NVIDIA A100"), "{error}");
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn files_whose_chances_come_from_different_tests_are_not_merged() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = parts();
        all[1].schema = crate::results::READABLE[1].to_owned();
        let paths: Vec<PathBuf> = ["a.json", "b.json"].iter().map(|name| folder.path().join(name)).collect();
        all.iter().zip(&paths).for_each(|(results, path)| results.write(path).unwrap());
        let error = main(&paths, &folder.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("schema: cuota-bench/3 and cuota-bench/2"), "{error}");
    }
}
