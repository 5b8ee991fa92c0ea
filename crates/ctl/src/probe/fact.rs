//! What the probe tells.

use serde::{Deserialize, Serialize};

/// One line of the probe's output.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// libcuda.so.1 cannot be loaded.
    NoDriver {
        /// The dynamic linker's reason.
        why: String,
    },
    /// Whether the shim is in this process.
    Mapped {
        /// The path of libcuota.so as it is mapped.
        libcuota: Option<String>,
    },
    /// The driver.
    Driver {
        /// The path of libcuda as it is mapped.
        libcuda: Option<String>,
        /// `cuDriverGetVersion`: 1000 × major + 10 × minor.
        version: i32,
    },
    /// Where one way to look functions up leads.
    Lookups(Lookup),
    /// The GPU that was used.
    Device {
        /// Its name.
        name: String,
        /// Its UUID.
        uuid: String,
    },
    /// How large the GPU looks.
    Views(Views),
    /// What allocations really take.
    Blocks {
        /// One row an allocation.
        rows: Vec<Taken>,
    },
    /// How much is granted until a refusal.
    Fill {
        /// Bytes granted, found to 2 MiB.
        granted_bytes: u64,
        /// The status of the last refusal; `None`: nothing was refused.
        refused: Option<u32>,
        /// What the process took before, as NVML counts it: context and code.
        own_before_bytes: Option<u64>,
        /// What it took at most.
        own_full_bytes: Option<u64>,
        /// The status of an allocation as large as one that was just freed.
        again: u32,
    },
    /// What more than the whole quota was answered with, by each way to ask for memory.
    Refusals {
        /// One row a way.
        rows: Vec<Ask>,
    },
    /// A call failed that should not: the report ends.
    Failed {
        /// Which.
        call: String,
        /// Its status.
        status: u32,
    },
}

/// Where one way to look functions up leads.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lookup {
    /// The way: `dlsym on the handle`.
    pub(crate) way: String,
    /// Functions that it gives the hook for.
    pub(crate) hooked: usize,
    /// Functions that it does not find, as without the shim.
    pub(crate) absent: usize,
    /// Functions that it gives something else for, with where that lies.
    pub(crate) around: Vec<String>,
}

/// How large the GPU looks, bytes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Views {
    /// `cuDeviceTotalMem`
    pub(crate) device_total_bytes: u64,
    /// `cuMemGetInfo`, total
    pub(crate) info_total_bytes: u64,
    /// `cuMemGetInfo`, free
    pub(crate) info_free_bytes: u64,
    /// `nvmlDeviceGetMemoryInfo`
    pub(crate) nvml_total_bytes: Option<u64>,
    /// `nvmlDeviceGetMemoryInfo_v2`
    pub(crate) nvml_v2_total_bytes: Option<u64>,
}

/// What an allocation really takes, bytes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    /// What was asked for.
    pub(crate) asked_bytes: u64,
    /// What NVML shows more afterwards; `None` where NVML does not list the process.
    pub(crate) taken_bytes: Option<u64>,
    /// What is left of that after the free.
    pub(crate) left_bytes: Option<u64>,
}

/// What a request was answered with.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    /// The function.
    pub(crate) call: String,
    /// What was asked for.
    pub(crate) asked_bytes: u64,
    /// The status.
    pub(crate) status: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_survives_its_line() {
        for fact in [
            Fact::Lookups(Lookup { way: "a".into(), hooked: 1, absent: 2, around: vec!["b".into()] }),
            Fact::Failed { call: "cuInit".into(), status: 100 },
            Fact::Mapped { libcuota: None },
        ] {
            let line = serde_json::to_string(&fact).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Fact>(&line).unwrap(), fact);
        }
    }
}
