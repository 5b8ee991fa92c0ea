//! A native control inside a sample, beside the system's own processes: for figures that are a part of native's.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::system::Launcher;
use crate::worker::Effort;

/// What `measure` gives natively, and under the launcher's system: neighbours in time, each first by turns.
pub(super) fn beside_native<T>(
    launcher: &Launcher<'_>,
    mut measure: impl FnMut(&Launcher<'_>) -> Result<T>,
) -> Result<[T; 2]> {
    static SAMPLES: AtomicUsize = AtomicUsize::new(0);
    let native = launcher.native();
    let native_first = SAMPLES.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
    if native_first {
        let control = measure(&native).context("the native control")?;
        Ok([control, measure(launcher)?])
    } else {
        let system = measure(launcher)?;
        Ok([measure(&native).context("the native control")?, system])
    }
}

/// One of three times in milliseconds, in nanoseconds, by how much work is to go into a figure.
pub(super) fn by_effort_ns(effort: Effort, [quick_ms, standard_ms, full_ms]: [u64; 3]) -> u64 {
    let ms = match effort {
        Effort::Quick => quick_ms,
        Effort::Standard => standard_ms,
        Effort::Full => full_ms,
    };
    ms * 1_000_000
}
