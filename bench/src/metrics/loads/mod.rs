//! The workloads: what tenants do while a limit, a turn or a neighbour is judged. Each counts units of work that are done,
//! and each checks what it computed.
//!
//! The nine of IS-003 are [`Kind::NINE`]; the others are aggressors.

mod burn;
mod decoder;
mod drive;
mod matmul;
mod memory;
mod plan;
mod progress;
mod requests;
mod training;

pub(super) use burn::Work as BurnWork;
pub(super) use decoder::{Decoder, Size as DecoderSize};
pub(super) use drive::drive;
pub(super) use matmul::{Activation, Gemm, Product, sampled_places};
pub(super) use plan::{Part, Plan, alone, progress_of, together, together_with};
pub(super) use progress::Progress;
pub(super) use requests::{Arrivals, Request as DecoderRequest, Served, serve, wait_until, whole_ns};

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::gpu::{Gpu, StreamHandle};
use crate::worker::{Page, Request, Work};

/// How long a tenant waits for the others of its sample.
const PATIENCE: Duration = Duration::from_secs(100);
/// The fact that holds a tenant's [`Progress`].
const PROGRESS: &str = "progress";

/// A workload by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Kernels of 5 µs, never waited for.
    Small,
    /// Kernels of 100 µs, never waited for.
    Medium,
    /// Kernels of 1 ms.
    Long,
    /// Kernels of 20 ms.
    VeryLong,
    /// A graph of 20 kernels of 5 µs.
    Graph,
    /// Kernels of 100 µs, each waited for.
    SyncEach,
    /// Products of 4096 x 4096 matrices in bf16 on tensor cores.
    Matmul,
    /// Training steps: a batch is copied and learned; the loss is read.
    Training,
    /// Decoder steps by CUDA graph, each waited for.
    Decode,
    /// Copies inside the device's memory.
    Bandwidth,
    /// Empty kernels.
    LaunchStorm,
    /// Allocations and frees.
    AllocStorm,
}

impl Kind {
    /// The nine workloads by which a cap is judged.
    pub(super) const NINE: [Self; 9] = [
        Self::Small,
        Self::Medium,
        Self::Long,
        Self::VeryLong,
        Self::Graph,
        Self::SyncEach,
        Self::Matmul,
        Self::Training,
        Self::Decode,
    ];

    /// Those of them whose units are waited for one by one, so that they may leave the device idle.
    pub(super) const WAITED_FOR: [Self; 3] = [Self::SyncEach, Self::Training, Self::Decode];

    /// The name in series and reports.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Small => "5 µs kernels",
            Self::Medium => "100 µs kernels",
            Self::Long => "1 ms kernels",
            Self::VeryLong => "20 ms kernels",
            Self::Graph => "graph of 20 x 5 µs",
            Self::SyncEach => "100 µs, each waited for",
            Self::Matmul => "bf16 matmul",
            Self::Training => "training step",
            Self::Decode => "decode graph",
            Self::Bandwidth => "memory copies",
            Self::LaunchStorm => "empty kernels",
            Self::AllocStorm => "allocations",
        }
    }
}

/// A workload that is ready to run.
pub(super) trait Load {
    /// The stream that its units go to.
    fn stream(&self) -> StreamHandle;

    /// Submits one unit of work.
    ///
    /// # Errors
    /// Any CUDA error.
    fn submit(&mut self) -> Result<()>;

    /// About what a unit takes by itself, in nanoseconds.
    fn unit_ns(&self) -> u64;

    /// True when each unit is waited for before the next begins, as a program does that reads each result.
    fn waits(&self) -> bool {
        false
    }

    /// What the host does before each unit of work that is waited for, as a program has it that feeds a GPU.
    ///
    /// # Errors
    /// Any CUDA error.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Fails unless what was computed is right. Called when all `units` are done, on a GPU and not on the software GPU.
    fn verify(&mut self, units: u64) -> Result<()>;
}

/// Makes the workload `kind` ready.
pub(super) fn open(kind: Kind, gpu: &Gpu) -> Result<Box<dyn Load>> {
    const US: u64 = 1_000;
    let load: Box<dyn Load> = match kind {
        Kind::Small => Box::new(burn::Burn::new(gpu, 5 * US, false)?),
        Kind::Medium => Box::new(burn::Burn::new(gpu, 100 * US, false)?),
        Kind::Long => Box::new(burn::Burn::new(gpu, 1_000 * US, false)?),
        Kind::VeryLong => Box::new(burn::Burn::new(gpu, 20_000 * US, false)?),
        Kind::SyncEach => Box::new(burn::Burn::new(gpu, 100 * US, true)?),
        Kind::Graph => Box::new(burn::Chain::new(gpu, 20, 5 * US)?),
        Kind::LaunchStorm => Box::new(burn::Empty::new(gpu)?),
        Kind::Matmul => Box::new(matmul::Matmul::new(gpu)?),
        Kind::Training => Box::new(training::Training::new(gpu)?),
        Kind::Decode => Box::new(decoder::DecodeLoop::new(gpu)?),
        Kind::Bandwidth => Box::new(memory::Copies::new(gpu)?),
        Kind::AllocStorm => Box::new(memory::Allocations::new(gpu)?),
    };
    Ok(load)
}

/// The internal job of a tenant that runs workloads: its variant is a [`Plan`].
pub(super) fn work(request: &Request) -> Result<Work> {
    let plan: Plan = serde_json::from_str(&request.variant).context("the plan of a tenant")?;
    let gpu = Gpu::open(request.device)?;
    let page = request.shared.as_deref().map(Page::open).transpose()?;
    let mut work = Work::default();
    let mut all = Vec::new();
    for (number, kind) in plan.kinds.iter().enumerate() {
        let mut load = open(*kind, &gpu).with_context(|| kind.text())?;
        // The first of them begins with the other tenants.
        let from_ns = match (&page, number) {
            (Some(page), 0) => page.wait_for_go(PATIENCE)?,
            _ => now_ns(),
        };
        let until_ns = from_ns + plan.run_ns;
        let progress = drive(&gpu, load.as_mut(), until_ns, plan.occupancy, page.as_ref(), request.place)
            .with_context(|| kind.text())?;
        if !request.simulated {
            load.verify(progress.units()).with_context(|| format!("{}: the result", kind.text()))?;
        }
        all.push(progress);
    }
    work.facts.insert(PROGRESS.to_owned(), serde_json::to_string(&all)?);
    Ok(work)
}
