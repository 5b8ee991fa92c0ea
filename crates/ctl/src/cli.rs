//! What can be written on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use cuota_governor::cap::Cap;
use cuota_region::name::{BadName, GpuId, TenantName};
use cuota_region::policy::MemoryLimit;

use crate::claim::Claim;
use crate::{share, size};

/// Run a CUDA program under a memory quota, and show that the quota holds.
#[derive(Parser, Debug)]
#[command(name = "cuota", version, about)]
pub(crate) struct Cli {
    /// The directory with the policy and the tenants' files, or the file of HAMi's monitor for its container.
    #[arg(long, global = true, env = cuota_region::DIR_VARIABLE, value_name = "PATH", hide_env_values = true)]
    pub(crate) dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a program as a tenant of the GPU.
    Run(Run),
    /// Show what is here, who could lift a limit, and the proof that a quota holds.
    Doctor(Doctor),
    /// List the tenants: what each may have, what it has, what it was refused.
    Ps(Ps),
    /// Change the limits of a tenant, while it runs or before.
    Set(Set),
    /// Show what happened to a tenant: refusals, growth inside a call, processes found dead.
    Events(Events),
    /// Put the library, and a quota that cannot be changed from inside, into containers.
    Inject(Inject),
    /// Tell what a program sees under the shim; `doctor` runs it.
    #[command(hide = true)]
    Probe(Probe),
    /// Be the hook that `inject --hook` installs; a container runtime runs it.
    #[command(hide = true)]
    ContainerHook(ContainerHook),
}

/// `cuota doctor`
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status: 0 if quotas are enforced, 1 if there is a problem, 2 for wrong usage, 3 if there is no GPU or driver.")]
pub(crate) struct Doctor {
    /// Look at the software GPU, and prove on it.
    #[arg(long)]
    pub(crate) sim: bool,

    /// Print JSON (schema cuota.doctor/1).
    #[arg(long)]
    pub(crate) json: bool,

    /// The GPU to prove on; the first that is visible if left out.
    #[arg(long, short, value_name = "INDEX|UUID", value_parser = parse_device)]
    pub(crate) device: Option<Device>,

    /// The library to preload, where it is not beside this command or installed.
    #[arg(long, visible_alias = "library", value_name = "PATH")]
    pub(crate) lib: Option<PathBuf>,
}

/// `cuota ps`
#[derive(Args, Debug)]
pub(crate) struct Ps {
    /// Print JSON (schema cuota.ps/1).
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cuota set`
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status: 0 if the limits are changed, 1 if they could not be, 2 for wrong usage.

Examples:
  cuota set alice --compute 30%
  cuota set alice --compute off --memory 8GiB
  cuota set alice --compute 50% --gpu GPU-1b2c…       (on this GPU only)
  cuota set alice --guarantee 20% --weight 300 --priority high
  cuota set alice --preset strict --compute 30%")]
pub(crate) struct Set {
    /// The tenant, as `cuota ps` lists it.
    #[arg(value_name = "TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: TenantName,

    /// The most GPU time that it may take, such as 30%; off: as much as there is. In force within 20 ms.
    #[arg(long, short, value_name = "SHARE", value_parser = share::parse_cap, allow_hyphen_values = true)]
    pub(crate) compute: Option<Cap>,

    #[command(flatten)]
    pub(crate) claim: Claim,

    /// The memory quota, as for `cuota run`.
    #[arg(long, short, value_name = "SIZE", value_parser = size::parse_limit, allow_hyphen_values = true)]
    pub(crate) memory: Option<MemoryLimit>,

    /// The GPU that the limits are for, by the UUID that `cuota ps` shows; all of them if left out.
    #[arg(long, short, value_name = "UUID", value_parser = parse_gpu)]
    pub(crate) gpu: Option<GpuId>,
}

/// `cuota events`
#[derive(Args, Debug)]
pub(crate) struct Events {
    /// The tenant, as `cuota ps` names it.
    #[arg(value_name = "TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: TenantName,

    /// Print JSON (schema cuota.events/1).
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cuota inject`
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("way").required(true).args(["cdi", "volumes", "hook", "preload"]),
    group = ArgGroup::new("action").required(true).args(["print", "install", "remove"]),
    after_help = "\
Exit status: 0 if it is done, 1 if it could not be, 2 for wrong usage. Installing twice changes nothing; what is removed leaves \
nothing behind. docs/containers.md says what each way can hold.

Examples:
  cuota inject --cdi --tenant alice --memory 8GiB --install
      podman run --device nvidia.com/gpu=0 --device cuota/tenant=alice IMAGE
  cuota inject --volumes --tenant alice --memory 8GiB --install
      docker run --gpus 1 $(cuota inject --volumes --tenant alice --print) IMAGE
  cuota inject --hook --tenant alice --memory 8GiB --install
      podman run --device nvidia.com/gpu=0 --annotation cuota.tenant=alice IMAGE
  cuota inject --preload --install            (every program of this machine)"
)]
pub(crate) struct Inject {
    /// As a CDI device: Podman 4.1, Docker 25, containerd 1.7, CRI-O 1.23 and newer.
    #[arg(long)]
    pub(crate) cdi: bool,

    /// As options of `docker run` and the like; --print prints them.
    #[arg(long)]
    pub(crate) volumes: bool,

    /// As an OCI createContainer hook; --print prints the part of a config.json, --install is for Podman and CRI-O.
    #[arg(long)]
    pub(crate) hook: bool,

    /// As a line of /etc/ld.so.preload, of this machine or of the root file system that --root names.
    #[arg(long, conflicts_with_all = ["tenant", "memory", "compute", "user"])]
    pub(crate) preload: bool,

    /// Show what would be installed, and change nothing.
    #[arg(long)]
    pub(crate) print: bool,

    /// Install it.
    #[arg(long)]
    pub(crate) install: bool,

    /// Remove it, with the tenant, its quota and its books.
    #[arg(long)]
    pub(crate) remove: bool,

    /// The tenant that the container is to be.
    #[arg(long, short, value_name = "NAME", value_parser = parse_tenant)]
    pub(crate) tenant: Option<TenantName>,

    /// Its memory quota, as for `cuota run`. Without it the tenant keeps the one it has; a new one has none.
    #[arg(long, short, value_name = "SIZE", value_parser = size::parse_limit, allow_hyphen_values = true, requires = "tenant")]
    pub(crate) memory: Option<MemoryLimit>,

    /// Its share of GPU time, as for `cuota run`. Without it the tenant keeps the one it has; a new one has no limit.
    #[arg(long, short, value_name = "SHARE", value_parser = share::parse_cap, allow_hyphen_values = true, requires = "tenant")]
    pub(crate) compute: Option<Cap>,

    /// The user that the container's programs are, as this machine counts users: alone it may write the tenant's books. Without
    /// it every user of the container may.
    #[arg(long, value_name = "UID", requires = "tenant")]
    pub(crate) user: Option<u32>,

    /// Where the CDI spec or the hook's file goes, if not /etc/cdi or /usr/share/containers/oci/hooks.d.
    #[arg(long, value_name = "PATH", conflicts_with = "preload")]
    pub(crate) folder: Option<PathBuf>,

    /// The root file system to preload in; this machine's if left out.
    #[arg(long, value_name = "PATH", requires = "preload")]
    pub(crate) root: Option<PathBuf>,

    /// The library, where it is not beside this command or installed.
    #[arg(long, visible_alias = "library", value_name = "PATH")]
    pub(crate) lib: Option<PathBuf>,
}

/// `cuota container-hook`
#[derive(Args, Debug)]
pub(crate) struct ContainerHook {
    /// The tenant; the container's annotation names it if left out.
    #[arg(long, value_name = "NAME", value_parser = parse_tenant)]
    pub(crate) tenant: Option<TenantName>,

    /// The library.
    #[arg(long, value_name = "PATH")]
    pub(crate) lib: Option<PathBuf>,
}

/// `cuota probe`
#[derive(Args, Debug)]
pub(crate) struct Probe {
    /// The quota that the probe runs under, bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) quota: u64,
}

/// `cuota run`
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status: that of the program; 127 if it was not found, 126 if it cannot be executed, 125 if cuota failed before \
it started, 2 for wrong usage.

Examples:
  cuota run --memory 8GiB -- python train.py
  cuota run --memory 50% --device 1 --tenant alice -- ./server
  cuota run --sim --memory 2g -- ./program        (no GPU needed)")]
pub(crate) struct Run {
    /// The memory quota on each GPU: 8GiB, 8g (the same), 500MB, plain bytes, or a share such as 50%. Without it the
    /// program has no quota (a named tenant keeps the one it has) and is listed by `cuota ps` all the same.
    #[arg(long, short, value_name = "SIZE", value_parser = size::parse_limit, allow_hyphen_values = true)]
    pub(crate) memory: Option<MemoryLimit>,

    /// The most GPU time that the program may take, on each GPU: 30%, or off for as much as there is. Without it there is no
    /// limit (a named tenant keeps the one it has).
    #[arg(long, short, value_name = "SHARE", value_parser = share::parse_cap, allow_hyphen_values = true)]
    pub(crate) compute: Option<Cap>,

    #[command(flatten)]
    pub(crate) claim: Claim,

    /// The GPU that the program sees: its index as nvidia-smi counts, or its UUID; several with commas.
    #[arg(long, short, value_name = "INDEX|UUID", value_parser = parse_device)]
    pub(crate) device: Option<Device>,

    /// The tenant's name: programs of one tenant share its quota, and it lasts. Without it the program is a tenant of
    /// its own for as long as it runs.
    #[arg(long, short, value_name = "NAME", value_parser = parse_tenant)]
    pub(crate) tenant: Option<TenantName>,

    /// Run on the software GPU.
    #[arg(long)]
    pub(crate) sim: bool,

    /// The library to preload, where it is not beside this command or installed.
    #[arg(long, visible_alias = "library", value_name = "PATH")]
    pub(crate) lib: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// GPUs by index or UUID, as `CUDA_VISIBLE_DEVICES` takes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    /// The value for the variable.
    pub(crate) visible: String,
    /// Whether a GPU is named by its index, which has a meaning only together with an order.
    pub(crate) by_index: bool,
}

fn parse_device(text: &str) -> Result<Device, String> {
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_uuid = |part: &str| {
        let tail = part.strip_prefix("GPU-").or_else(|| part.strip_prefix("MIG-"));
        tail.is_some_and(|t| {
            !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/'))
        })
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match parts.iter().find(|part| !is_index(part) && !is_uuid(part)) {
        Some(bad) => Err(format!(
            "`{bad}` is neither an index nor a UUID; `nvidia-smi -L` lists both, such as 0 and GPU-1b2c…"
        )),
        None => Ok(Device { visible: parts.join(","), by_index: parts.iter().any(|part| is_index(part)) }),
    }
}

fn parse_gpu(text: &str) -> Result<GpuId, String> {
    let digits = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-")).unwrap_or_default();
    let hex: String = digits.chars().filter(|c| *c != '-').collect();
    match u128::from_str_radix(&hex, 16) {
        Ok(value) if hex.len() == 32 => Ok(GpuId::from_uuid(value.to_be_bytes())),
        _ => Err(format!(
            "`{text}` is no UUID of a GPU; `cuota ps --json` and `nvidia-smi -L` list them in full"
        )),
    }
}

fn parse_tenant(text: &str) -> Result<TenantName, BadName> {
    TenantName::parse(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_programs_options_are_its_own() {
        let cli = Cli::try_parse_from(["cuota", "run", "--memory", "8g", "prog", "--memory", "x", "--help"])
            .unwrap();
        let Command::Run(run) = cli.command else { panic!() };
        assert_eq!(run.memory, Some(MemoryLimit::Bytes(8 << 30)));
        assert_eq!(run.command, ["prog", "--memory", "x", "--help"]);
    }

    #[test]
    fn a_wrong_size_says_what_was_asked_what_is_so_and_what_to_do() {
        let error =
            Cli::try_parse_from(["cuota", "run", "--memory", "-1GiB", "--", "p"]).unwrap_err().to_string();
        for part in ["-1GiB", "--memory", "cannot be negative", "8GiB"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_device_is_an_index_or_a_uuid() {
        for good in ["0", "1,2", "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", "MIG-GPU-1/2/3"] {
            assert!(parse_device(good).is_ok(), "{good}");
        }
        for bad in ["", "-1", "1,", "gpu0", "GPU-", "GPU-1;2", "all"] {
            assert!(parse_device(bad).is_err(), "{bad}");
        }
        assert!(!parse_device("GPU-1").unwrap().by_index);
    }

    proptest! {
        #[test]
        fn no_device_text_reaches_the_environment_with_anything_odd_in_it(text in ".{0,30}") {
            if let Ok(device) = parse_device(&text) {
                prop_assert!(device.visible.bytes().all(|b| b.is_ascii_alphanumeric() || b",-/".contains(&b)));
            }
        }
    }
}
