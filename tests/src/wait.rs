//! Waiting for what comes by itself, without a limit of time.

/// How often it is looked, a millisecond apart at least.
const LOOKS: usize = 20_000;

/// Looks until `is_so`, a bounded number of times.
///
/// # Panics
/// If it never is: with `what`.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("never: {what}");
}
