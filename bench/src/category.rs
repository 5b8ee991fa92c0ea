//! The categories of metrics, by the beginning of their IDs.

/// What a category is called, and the IDs that belong to it.
pub struct Category {
    /// Its name.
    pub name: &'static str,
    /// The beginnings of the IDs of its metrics, up to the hyphen.
    prefixes: &'static [&'static str],
}

/// All of them, in the order of reports.
pub static ALL: [Category; 5] = [
    Category { name: "Overhead", prefixes: &["OH"] },
    Category { name: "Isolation", prefixes: &["IS"] },
    Category { name: "LLM", prefixes: &["LLM"] },
    Category { name: "Device", prefixes: &["BW", "CACHE", "PCIE", "NCCL", "SCHED", "FRAG", "ERR"] },
    Category { name: "Beyond", prefixes: &["GT", "EV", "RB", "SELF"] },
];

impl Category {
    /// Whether the metric `id` belongs to it.
    pub fn has(&self, id: &str) -> bool {
        id.split_once('-').is_some_and(|(prefix, _)| self.prefixes.contains(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    #[test]
    fn every_metric_belongs_to_one_category() {
        for metric in metrics::ALL {
            let id = metric.info().id;
            assert_eq!(ALL.iter().filter(|category| category.has(id)).count(), 1, "{id}");
        }
    }
}
