//! What a call costs the tenant.

pub(crate) mod pass;

/// Whether this process is held to anything at all.
pub(crate) fn is_managed() -> bool {
    true
}
