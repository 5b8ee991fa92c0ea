//! Launches as CUDA 2 knew them: a function keeps its block's shape and its parameters, which later launches use.

use super::Driver;
use super::launch::{Arguments, Shape};
use super::streams::StreamRef;
use crate::error::{Answer, Fault};
use crate::ptx::Kernel;
use crate::units::index;

/// The most bytes of parameters, as for any launch.
const MOST_BYTES: u64 = 4096;

/// What was set for a function.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    block: [u32; 3],
    shared_bytes: u32,
    parameters: Vec<u8>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { block: [1; 3], shared_bytes: 0, parameters: Vec::new() }
    }
}

impl Setting {
    fn arguments(&self, kernel: &Kernel) -> Arguments {
        let bytes = kernel.parameters.iter().map(|p| {
            let range = index(p.offset)..index(p.offset + p.bytes);
            self.parameters.get(range).unwrap_or_default().into()
        });
        Arguments::new(bytes.collect())
    }
}

impl Driver {
    /// Sets the threads of a block for later launches of `function`, in x, y and z.
    ///
    /// # Errors
    /// `InvalidHandle` for a function that is none.
    pub fn set_block(&self, function: u64, block: [u32; 3]) -> Answer<()> {
        self.with_setting(function, |setting| {
            setting.block = block;
            Ok(())
        })
    }

    /// Sets the dynamic shared memory of a block for later launches of `function`, in bytes.
    ///
    /// # Errors
    /// As [`Self::set_block`].
    pub fn set_shared(&self, function: u64, bytes: u32) -> Answer<()> {
        self.with_setting(function, |setting| {
            setting.shared_bytes = bytes;
            Ok(())
        })
    }

    /// Sets how many bytes of parameters `function` has.
    ///
    /// # Errors
    /// As [`Self::set_block`]; `InvalidValue` for more than any kernel has.
    pub fn set_parameter_bytes(&self, function: u64, bytes: u32) -> Answer<()> {
        self.set_parameter(function, u64::from(bytes), &[])?;
        self.with_setting(function, |setting| {
            setting.parameters.truncate(index(u64::from(bytes)));
            Ok(())
        })
    }

    /// Sets parameters of `function` from byte `offset` on.
    ///
    /// # Errors
    /// As [`Self::set_parameter_bytes`].
    pub fn set_parameter(&self, function: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= MOST_BYTES);
        let (start, end) = (index(offset), index(end.ok_or(Fault::InvalidValue)?));
        self.with_setting(function, |setting| {
            let length = setting.parameters.len().max(end);
            setting.parameters.resize(length, 0);
            setting.parameters[start..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Launches `function` as it is set, in a grid of `grid` blocks in x and y.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn launch_as_set(&self, function: u64, grid: [u32; 2], stream: StreamRef) -> Answer<()> {
        let setting = self.with_setting(function, |setting| Ok(setting.clone()))?;
        let shape =
            Shape { grid: [grid[0], grid[1], 1], block: setting.block, shared_bytes: setting.shared_bytes };
        self.launch(function, shape, stream, |kernel| Ok(setting.arguments(kernel)))
    }

    fn with_setting<T>(&self, function: u64, work: impl FnOnce(&mut Setting) -> Answer<T>) -> Answer<T> {
        let mut state = self.state.lock();
        work(&mut state.functions.get_mut(&function).ok_or(Fault::InvalidHandle)?.setting)
    }
}
