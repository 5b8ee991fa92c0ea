//! Exit statuses, so that scripts can tell outcomes apart.

/// All is as asked.
pub(crate) const OK: u8 = 0;

/// `doctor`: something was found that keeps a quota from being enforced. `ps`: the facts cannot be read.
pub(crate) const PROBLEM: u8 = 1;

/// Wrong usage: an option or its value. The number is clap's.
pub(crate) const USAGE: u8 = 2;

/// `doctor`: no GPU or no driver, so nothing to prove anything on.
pub(crate) const NO_GPU: u8 = 3;

/// `run`: cuota itself failed before the program started. This and the next two are those of `env`, `nohup` and
/// `timeout` in coreutils ("Exit status" in their manuals).
pub(crate) const OWN_FAILURE: u8 = 125;

/// `run`: the program was found and could not be started.
pub(crate) const CANNOT_EXECUTE: u8 = 126;

/// `run`: the program was not found.
pub(crate) const NOT_FOUND: u8 = 127;
