//! What a stream or a graph can carry again and again.

use super::Driver;
use super::streams::StreamRef;
use crate::engine::{Effect, Lane, Word, Work};
use crate::error::Answer;
use std::sync::Arc;

/// A unit that can be submitted more than once.
#[derive(Clone)]
pub enum Node {
    /// Takes a lane for a time, then has an effect.
    Timed {
        /// How long it takes by itself, in nanoseconds.
        cost_ns: u64,
        /// What it takes of the device.
        lane: Lane,
        /// What it does at its end.
        effect: Effect,
        /// Whether it ends with an illegal address.
        faults: bool,
    },
    /// A kernel that runs until a word is not zero.
    Spin {
        /// What it takes of the device.
        lane: Lane,
        /// The word.
        word: Word,
    },
    /// A function of the host.
    Host(Arc<dyn Fn() + Send + Sync>),
    /// Nothing.
    Empty,
}

impl Node {
    /// The node as a unit of a stream; `None` where it is nothing.
    #[must_use]
    pub fn work(&self) -> Option<Work> {
        Some(match self.clone() {
            Self::Timed { cost_ns, lane, effect, faults } => Work::Timed { cost_ns, lane, effect, faults },
            Self::Spin { lane, word } => Work::Spin { lane, word },
            Self::Host(call) => Work::Host(Box::new(move || call())),
            Self::Empty => return None,
        })
    }
}

impl Driver {
    /// Whether a stream is being captured.
    #[must_use]
    pub fn is_capturing(&self, _stream: StreamRef) -> bool {
        false
    }

    /// Submits a node to a stream.
    ///
    /// # Errors
    /// The sticky error.
    pub fn enqueue(&self, stream: StreamRef, node: Node) -> Answer<()> {
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        if let Some(work) = node.work() {
            gpu.submit(stream.id, work);
        }
        Ok(())
    }
}
