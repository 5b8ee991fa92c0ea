//! Launching kernels.

use super::Driver;
use super::graph::Node;
use super::handle::Kind;
use super::streams::StreamRef;
use crate::engine::{Effect, Lane, SMS, Word, Work};
use crate::error::{Answer, Fault};
use crate::ptx::{Kernel, Needs, UNKNOWN_COST_NS};
use std::sync::Arc;

/// The most threads of a block.
const BLOCK_THREADS: u64 = 1024;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks of the grid, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
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

/// The bytes of a kernel's arguments, one entry a parameter; empty where the caller gave none.
#[derive(Debug, Default)]
pub struct Arguments {
    bytes: Vec<Box<[u8]>>,
    addresses: Box<[u64]>,
}

impl Arguments {
    /// Keeps the bytes of each argument.
    #[must_use]
    pub fn new(bytes: Vec<Box<[u8]>>) -> Self {
        let addresses = bytes.iter().map(|b| if b.is_empty() { 0 } else { b.as_ptr() as u64 }).collect();
        Self { bytes, addresses }
    }

    /// Where each argument lies, as long as the arguments live, 0 for one that was not given: what a kernel node shows as its parameters.
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// The argument `number` as an integer: its first eight bytes, or as many as it has.
    fn integer(&self, number: u64) -> Answer<u64> {
        let found = usize::try_from(number).ok().and_then(|place| self.bytes.get(place));
        let bytes = found.filter(|bytes| !bytes.is_empty()).ok_or(Fault::InvalidValue)?;
        let mut value = [0; 8];
        let length = bytes.len().min(8);
        value[..length].copy_from_slice(&bytes[..length]);
        Ok(u64::from_le_bytes(value))
    }
}

/// A kernel with its arguments, to be launched once or, as a graph's node, often.
#[derive(Debug)]
pub struct Launch {
    /// The function or kernel.
    pub function: u64,
    /// The context in which it runs.
    pub context: u64,
    /// Its shape.
    pub shape: Shape,
    /// Its arguments.
    pub arguments: Arguments,
    pub(super) needs: Needs,
    lane: Lane,
    runs: Runs,
}

/// How long a kernel runs.
#[derive(Debug, Clone)]
enum Runs {
    For { cost_ns: u64, effect: Effect, faults: bool },
    Until(Word),
}

impl Launch {
    /// Whether it was given as a kernel of a library, not as a function of a module.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        Kind::Kernel.is_of(self.function)
    }

    pub(super) fn work(&self) -> Work {
        match self.runs.clone() {
            Runs::For { cost_ns, effect, faults } => Work::Timed { cost_ns, lane: self.lane, effect, faults },
            Runs::Until(word) => Work::Spin { lane: self.lane, word },
        }
    }
}

impl Driver {
    /// Launches `function` in `stream`. `read` gives the arguments of the kernel.
    ///
    /// # Errors
    /// `InvalidHandle` for a function that is none; `InvalidValue` for an impossible shape or a missing argument;
    /// `OutOfMemory` where the context's growth does not fit; `InvalidContext`; the sticky error.
    pub fn launch(
        &self,
        function: u64,
        shape: Shape,
        stream: StreamRef,
        read: impl FnOnce(&Kernel) -> Answer<Arguments>,
    ) -> Answer<()> {
        self.current_device()?;
        let launch = self.prepare_launch(function, shape, stream.context, read)?;
        // What is captured grows the context when its graph is launched.
        if !self.is_capturing(stream) {
            self.grow_for(&mut self.state.lock(), stream.context, launch.needs)?;
        }
        self.enqueue(stream, Node::Kernel(Arc::new(launch)))
    }

    /// A kernel with its arguments read, its module loaded in `context`.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn prepare_launch(
        &self,
        function: u64,
        shape: Shape,
        context: u64,
        read: impl FnOnce(&Kernel) -> Answer<Arguments>,
    ) -> Answer<Launch> {
        shape.check()?;
        let mut state = self.state.lock();
        let kernel = self.ready_function(&mut state, context, function)?;
        let arguments = read(&kernel)?;
        let word_at = |key: &str| -> Answer<Option<Word>> {
            let Some(&number) = kernel.said.get(key) else { return Ok(None) };
            let host = state.host_address(arguments.integer(number)?, 4)?;
            Ok(Some(Word { host, is_wide: false }))
        };
        let (wait, set) = (word_at("wait_flag_arg")?, word_at("set_flag_arg")?);
        let sms = kernel.said.get("sms").copied().or(wait.map(|_| 1)).unwrap_or(shape.blocks());
        let lane = Lane::Sms(u32::try_from(sms).unwrap_or(SMS).clamp(1, SMS));
        let runs = if let Some(word) = wait {
            Runs::Until(word)
        } else {
            let cost_ns = match kernel.said.get("spin_arg") {
                Some(&number) => arguments.integer(number)?,
                None => kernel.said.get("cost_ns").copied().unwrap_or(UNKNOWN_COST_NS),
            };
            let effect = set.map_or(Effect::None, |word| Effect::Store { word, value: 1 });
            Runs::For { cost_ns, effect, faults: kernel.said.get("fault").is_some_and(|&f| f != 0) }
        };
        Ok(Launch { function, context, shape, arguments, needs: kernel.needs, lane, runs })
    }
}
