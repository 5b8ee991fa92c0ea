//! Figures that others published: shown in a column of their own, with card, date and class, and never ranked against what was
//! measured here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The schema's name and version.
pub const SCHEMA: &str = "cuota-bench-published/1";

/// A file of published columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// [`SCHEMA`].
    pub schema: String,
    /// One for each system of each source.
    pub columns: Vec<Column>,
}

/// One system of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The system's name there.
    pub name: String,
    /// The file that it comes from.
    pub source: String,
    /// The card that it was measured on.
    pub card: String,
    /// The day, as in 2025-11-29.
    pub date: String,
    /// What the figures show of the system.
    pub class: Class,
    /// Why it is of this class.
    pub evidence: String,
    /// The figures by metric.
    pub figures: BTreeMap<String, Figure>,
}

/// What a published run shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Too much of it failed to say anything.
    Broken,
    /// A limit was in force.
    LimitActive,
    /// Nothing in it differs from the driver alone.
    NativeLike,
}

impl Class {
    /// The words for it, of the system `name`.
    pub fn text(self, name: &str) -> String {
        match self {
            Self::Broken => "broken".to_owned(),
            Self::LimitActive if name.to_lowercase().contains("fcsp") => "FCSP active".to_owned(),
            Self::LimitActive => "limit active".to_owned(),
            Self::NativeLike => "native-like".to_owned(),
        }
    }
}

/// One published figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The median where one was published, else the mean.
    pub value: f64,
    /// Its unit, as this benchmark writes it.
    pub unit: String,
    /// Why it cannot be true, where that can be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impossible: Option<String>,
}

impl Published {
    /// Reads a file that `import` wrote; `seed` names the figures of the report that this benchmark started from.
    ///
    /// # Errors
    /// In words, when it is not there or something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match path.to_str() {
            Some("seed") => include_str!("../published/seed-2025-11-29.json").to_owned(),
            _ => fs::read_to_string(path).with_context(|| {
                format!(
                    "{} cannot be read: give a file that `cuota-bench import` wrote, or `seed`",
                    path.display()
                )
            })?,
        };
        let schema = serde_json::from_str::<serde_json::Value>(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?["schema"]
            .as_str()
            .unwrap_or("none")
            .to_owned();
        if schema != SCHEMA {
            bail!(
                "{} has the schema `{schema}` and not `{SCHEMA}`: `cuota-bench import` makes one",
                path.display()
            );
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a whole {SCHEMA} file", path.display()))
    }

    /// Its text as a file.
    pub fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Column {
    /// The head of its column.
    pub fn title(&self) -> String {
        format!("{} (published, {}, {}; {})", self.name, self.card, self.date, self.class.text(&self.name))
    }
}
