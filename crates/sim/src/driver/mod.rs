//! The driver of one process: its devices, contexts, memory, modules and streams. The C functions above it only turn
//! pointers into numbers and answers into `CUresult`.

mod allocate;
mod arrays;
mod capture;
mod context;
mod current;
mod dma_buf;
mod event;
mod event_sharing;
mod external;
mod graph;
mod graph_children;
mod graph_memory;
mod graph_update;
mod green;
mod growth;
mod handle;
mod host;
mod launch;
mod legacy;
mod libraries;
mod managed;
mod modules;
mod multicast;
mod pool_sharing;
mod pools;
mod sharing;
mod sparse;
mod streams;
mod sundries;
mod thread;
mod transfer;
mod virtual_memory;

pub use allocate::PointerFacts;
pub use capture::{CaptureStatus, Mode};
pub use context::{ContextFacts, Limit};
pub use event_sharing::IpcEvent;
pub use graph::{Node, NodeKind};
pub use graph_update::{Refusal, Refused};
pub use green::Split;
pub use growth::default_limit;
pub use host::HostFacts;
pub use launch::{Arguments, Launch, Shape};
pub use multicast::Binding;
pub use pool_sharing::PoolPointer;
pub use sharing::{FABRIC, IpcName, POSIX_DESCRIPTOR};
pub use sparse::ArrayMapping;
pub use streams::{GREATEST_PRIORITY, StreamRef};
pub use transfer::{Direction, Promise};

use crate::config::Config;
use crate::error::{Answer, Fault};
use crate::gpu::Gpu;
use crate::memory::pool::Pool;
use crate::memory::vmm::Vmm;
use crate::memory::{Backing, Space};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Everything that the process has, behind one lock.
pub(crate) struct State {
    pub(crate) space: Space,
    pub(crate) contexts: HashMap<u64, context::Context>,
    pub(crate) primaries: HashMap<u32, context::Primary>,
    pub(crate) allocations: BTreeMap<u64, allocate::Allocation>,
    pub(crate) descriptions: HashMap<u64, u32>,
    pub(crate) greens: HashMap<u64, green::Green>,
    pub(crate) managed: managed::Managed,
    pub(crate) arrays: HashMap<u64, arrays::Array>,
    pub(crate) mapped_arrays: HashMap<u64, Vec<sparse::Mapped>>,
    /// The physical memory that was made for tiles.
    pub(crate) tile_pools: HashSet<u64>,
    /// Plain memory that a stream will free.
    pub(crate) awaited_frees: Vec<pools::AwaitedFree>,
    pub(crate) pools: HashMap<u64, Pool>,
    pub(crate) default_pools: HashMap<u32, u64>,
    pub(crate) chosen_pools: HashMap<u32, u64>,
    pub(crate) vmm: Vmm,
    pub(crate) multicasts: HashMap<u64, multicast::Multicast>,
    pub(crate) sharing: sharing::Sharing,
    pub(crate) externals: HashMap<u64, external::External>,
    pub(crate) physical: HashMap<u64, Arc<Backing>>,
    pub(crate) host: BTreeMap<u64, host::HostRange>,
    pub(crate) streams: HashMap<u64, streams::StreamRef>,
    /// The default streams of threads, by thread and context.
    pub(crate) own_streams: HashMap<(u64, u64), u64>,
    pub(crate) events: HashMap<u64, event::EventRef>,
    pub(crate) modules: HashMap<u64, modules::Module>,
    pub(crate) libraries: HashMap<u64, libraries::Library>,
    pub(crate) functions: HashMap<u64, modules::Function>,
    pub(crate) graphs: HashMap<u64, graph::Graph>,
    pub(crate) executables: HashMap<u64, graph::Executable>,
    pub(crate) graph_memory: graph_memory::GraphMemory,
    pub(crate) captures: capture::Captures,
}

/// The driver of this process.
pub struct Driver {
    config: Config,
    gpus: Vec<Gpu>,
    state: Mutex<State>,
}

static DRIVER: OnceLock<Answer<Driver>> = OnceLock::new();
static FORKED: AtomicBool = AtomicBool::new(false);

impl Driver {
    /// Makes the driver, once a process: `cuInit`.
    ///
    /// # Errors
    /// `NotInitialized` in the child of a process that had made it (CUDA does not survive `fork`); `NoDevice` where
    /// `CUDA_VISIBLE_DEVICES` shows none; `OperatingSystem` where the shared files cannot be used.
    pub fn init() -> Answer<&'static Self> {
        if FORKED.load(Ordering::Relaxed) {
            return Err(Fault::NotInitialized);
        }
        DRIVER.get_or_init(Self::new).as_ref().map_err(|fault| *fault)
    }

    /// Looks at handles as late as [`Config::hesitation_ns`] says.
    ///
    /// # Errors
    /// Those of `look`; where it hesitates it aborts instead.
    pub fn hesitate<T>(&self, look: impl FnOnce(&Self) -> Answer<T>) -> Answer<T> {
        // SAFETY: neither has preconditions, nor can fail.
        let is_first = unsafe { libc::gettid() == libc::getpid() };
        if self.config.hesitation_ns == 0 || is_first {
            return look(self);
        }
        std::thread::sleep(std::time::Duration::from_nanos(self.config.hesitation_ns));
        look(self).inspect_err(|fault| {
            crate::log::line(&format!("{fault:?}: a handle is gone that was given"));
            std::process::abort()
        })
    }

    /// Whether the calling thread is in a host function of a stream's, which must not call the driver.
    #[must_use]
    pub fn is_in_host_function() -> bool {
        crate::gpu::host_calls::is_inside()
    }

    /// The driver of this process.
    ///
    /// # Errors
    /// `NotInitialized` before [`Self::init`], and in a forked child.
    pub fn get() -> Answer<&'static Self> {
        if FORKED.load(Ordering::Relaxed) {
            return Err(Fault::NotInitialized);
        }
        DRIVER.get().and_then(|d| d.as_ref().ok()).ok_or(Fault::NotInitialized)
    }

    fn new() -> Answer<Self> {
        extern "C" fn in_child() {
            FORKED.store(true, Ordering::Relaxed);
        }
        // SAFETY: the handler only stores to an atomic, which is safe in a forked child.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        crate::log::take_panics();
        let config = Config::from_environment();
        if config.visible.is_empty() {
            return Err(Fault::NoDevice);
        }
        let open = |(ordinal, &machine_ordinal)| Gpu::open(&config, ordinal, machine_ordinal);
        let gpus = (0..).zip(&config.visible).map(open).collect::<Answer<Vec<_>>>()?;
        let mut pools = HashMap::new();
        let mut default_pools = HashMap::new();
        for device in gpus.iter().map(Gpu::ordinal) {
            let pool = handle::fresh(handle::Kind::Pool);
            pools.insert(pool, Pool::new(device));
            default_pools.insert(device, pool);
        }
        let state = State {
            space: Space::new()?,
            contexts: HashMap::new(),
            primaries: HashMap::new(),
            allocations: BTreeMap::new(),
            descriptions: HashMap::new(),
            greens: HashMap::new(),
            managed: managed::Managed::default(),
            arrays: HashMap::new(),
            mapped_arrays: HashMap::new(),
            tile_pools: HashSet::new(),
            awaited_frees: Vec::new(),
            pools,
            chosen_pools: default_pools.clone(),
            default_pools,
            vmm: Vmm::default(),
            multicasts: HashMap::new(),
            sharing: sharing::Sharing::default(),
            externals: HashMap::new(),
            physical: HashMap::new(),
            host: BTreeMap::new(),
            streams: HashMap::new(),
            own_streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            libraries: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            graph_memory: graph_memory::GraphMemory::default(),
            captures: capture::Captures::default(),
        };
        Ok(Self { config, gpus, state: Mutex::new(state) })
    }

    /// What the environment said.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The devices that the process sees, in its order.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The device `ordinal`.
    ///
    /// # Errors
    /// `InvalidDevice` where there is none.
    pub fn gpu(&self, ordinal: i32) -> Answer<&Gpu> {
        usize::try_from(ordinal).ok().and_then(|i| self.gpus.get(i)).ok_or(Fault::InvalidDevice)
    }

    pub(crate) fn gpu_of(&self, device: u32) -> &Gpu {
        &self.gpus[device as usize]
    }
}
