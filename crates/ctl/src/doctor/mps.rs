//! NVIDIA's Multi-Process Service, where programs reach the GPU through a server.

use std::path::{Path, PathBuf};

use super::report::{Check, Mark};

/// Looks; nothing to say where there is none.
pub(crate) fn look() -> Option<Check> {
    let pipes = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").filter(|path| !path.is_empty());
    let pipes = pipes.map_or_else(|| PathBuf::from("/tmp/nvidia-mps"), PathBuf::from);
    let control = pipes.join("control").exists();
    (control || is_running(Path::new("/proc"))).then(|| {
        Check::not_ok(
            Mark::Warning,
            "gpu",
            "mps",
            format!("MPS is {} (pipes in {})", if control { "active" } else { "running elsewhere" }, pipes.display()),
            "a process's own memory may be counted as the MPS server's, so quotas are less exact; to stop MPS: \
             echo quit | nvidia-cuda-mps-control",
        )
    })
}

fn is_running(proc: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(proc) else { return false };
    // The kernel keeps 15 characters of a process's name (proc_pid_comm(5)).
    let is_mps = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.starts_with("nvidia-cuda-mps"))
    };
    entries.flatten().any(is_mps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_daemon_is_found_by_its_cut_name() {
        let proc = tempfile::tempdir().unwrap();
        assert!(!is_running(proc.path()));
        std::fs::create_dir(proc.path().join("7")).unwrap();
        std::fs::write(proc.path().join("7/comm"), "nvidia-cuda-mps\n").unwrap();
        assert!(is_running(proc.path()));
    }
}
