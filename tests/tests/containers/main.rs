//! Containers by real runtimes, runc and Podman, on the software GPU: `cuota inject` sets them up, in namespaces of their own.
//!
//! No image is needed: a container's root is a folder with links, and this machine's `/usr` below it, read-only, or an older or newer
//! root file system that `tests/fetch-rootfs` has unpacked. Where a runtime is missing, or may not make containers here, its tests are
//! skipped and say so.

mod ages;
mod escape;
mod hami;
mod install;
mod runtime;
mod setup;
mod sharing;
mod site;
mod turns;

/// Both runtimes: Podman takes the tenant as a CDI device, runc by the hook.
const RUNTIMES: [runtime::Runtime; 2] = [runtime::Runtime::Podman, runtime::Runtime::Runc];
