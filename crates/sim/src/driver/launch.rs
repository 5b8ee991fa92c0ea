//! Launching kernels.

use super::Driver;
use super::graph::{Node, NodeKind};
use super::streams::StreamRef;
use crate::engine::{Effect, Lane, SMS, Word};
use crate::error::{Answer, Fault};
use crate::ptx::{Kernel, UNKNOWN_COST_NS};

/// The most threads of a block.
const BLOCK_THREADS: u64 = 1024;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks of the grid, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
}

impl Shape {
    fn blocks(&self) -> u64 {
        self.grid.iter().fold(1, |all, &n| all.saturating_mul(u64::from(n)))
    }

    fn check(&self) -> Answer<()> {
        let threads = self.block.iter().fold(1, |all: u64, &n| all.saturating_mul(u64::from(n)));
        let is_possible = self.blocks() > 0 && (1..=BLOCK_THREADS).contains(&threads);
        if is_possible { Ok(()) } else { Err(Fault::InvalidValue) }
    }
}

impl Driver {
    /// Launches `function` in `stream`. `argument` reads the kernel's argument of a number as an integer.
    ///
    /// # Errors
    /// `InvalidHandle` for a function that is none; `InvalidValue` for an impossible shape or a missing argument;
    /// `OutOfMemory` where the context's growth does not fit; `InvalidContext`; the sticky error.
    pub fn launch(
        &self,
        function: u64,
        shape: Shape,
        stream: StreamRef,
        argument: impl Fn(&Kernel, u64) -> Answer<u64>,
    ) -> Answer<()> {
        self.current_device()?;
        let node = self.kernel_node(function, shape, stream.context, argument)?;
        self.enqueue(stream, node)
    }

    /// A kernel as a graph's node, with its arguments read.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn kernel_node(
        &self,
        function: u64,
        shape: Shape,
        context: u64,
        argument: impl Fn(&Kernel, u64) -> Answer<u64>,
    ) -> Answer<Node> {
        shape.check()?;
        let mut state = self.state.lock();
        let kernel = self.ready_function(&mut state, context, function)?;
        self.note_launch(&mut state, context)?;
        let word_at = |key: &str| -> Answer<Option<Word>> {
            let Some(&number) = kernel.said.get(key) else { return Ok(None) };
            let host = state.host_address(argument(&kernel, number)?, 4)?;
            Ok(Some(Word { host, is_wide: false }))
        };
        let (wait, set) = (word_at("wait_flag_arg")?, word_at("set_flag_arg")?);
        let sms = kernel.said.get("sms").copied().or(wait.map(|_| 1)).unwrap_or(shape.blocks());
        let lane = Lane::Sms(u32::try_from(sms).unwrap_or(SMS).clamp(1, SMS));
        if let Some(word) = wait {
            return Ok(Node::Spin { lane, word });
        }
        let cost_ns = match kernel.said.get("spin_arg") {
            Some(&number) => argument(&kernel, number)?,
            None => kernel.said.get("cost_ns").copied().unwrap_or(UNKNOWN_COST_NS),
        };
        let effect = set.map_or(Effect::None, |word| Effect::Store { word, value: 1 });
        let faults = kernel.said.get("fault").is_some_and(|&f| f != 0);
        Ok(Node::Timed { cost_ns, lane, effect, faults, kind: NodeKind::Kernel })
    }
}
