//! Libraries: programs that become modules where they are used, and their kernels.

use super::handle::{Kind, fresh};
use super::modules::read_program;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::ptx::Program;
use std::collections::HashMap;
use std::sync::Arc;

/// A library: a program that becomes a module in each context that uses it.
#[derive(Debug)]
pub(crate) struct Library {
    pub(super) program: Arc<Program>,
    pub(super) modules: HashMap<u64, u64>,
}

impl Driver {
    /// Loads PTX as a library. It takes memory where it is used.
    ///
    /// # Errors
    /// `InvalidImage` where it is no PTX.
    pub fn load_library(&self, image: &[u8]) -> Answer<u64> {
        let library = Library { program: Arc::new(read_program(image)?), modules: HashMap::new() };
        let handle = fresh(Kind::Library);
        self.state.lock().libraries.insert(handle, library);
        Ok(handle)
    }

    /// Unloads a library with its modules.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn unload_library(&self, library: u64) -> Answer<()> {
        self.wait_for_all()?;
        let mut state = self.state.lock();
        let gone = state.libraries.remove(&library).ok_or(Fault::InvalidHandle)?;
        state.functions.retain(|_, f| f.owner != library);
        gone.modules.values().for_each(|module| self.end_module(&mut state, *module));
        Ok(())
    }

    /// The kernel `name` of a library. Its handle is a function's too.
    ///
    /// # Errors
    /// `InvalidHandle` where it is no library; `NotFound` where it has no such kernel.
    pub fn library_kernel(&self, library: u64, name: &str) -> Answer<u64> {
        let mut state = self.state.lock();
        let program = state.libraries.get(&library).ok_or(Fault::InvalidHandle)?.program.clone();
        state.add_function(Kind::Kernel, library, &program, name)
    }

    /// The module of a library in the current context, loaded where it is not.
    ///
    /// # Errors
    /// `InvalidHandle`; `OutOfMemory`; `InvalidContext`.
    pub fn library_module(&self, library: u64) -> Answer<u64> {
        self.in_context(|state, context| self.library_module_in(state, context, library))
    }

    /// The function of a library's kernel in the current context: the same handle, once its module is loaded.
    ///
    /// # Errors
    /// `InvalidHandle` where it is no kernel of a library: a module's function is none; `OutOfMemory`; `InvalidContext`.
    pub fn kernel_function(&self, kernel: u64) -> Answer<u64> {
        if !Kind::Kernel.is_of(kernel) {
            return Err(Fault::InvalidHandle);
        }
        self.in_context(|state, context| {
            self.ready_function(state, context, kernel)?;
            Ok(kernel)
        })
    }

    /// The library of a kernel.
    ///
    /// # Errors
    /// `InvalidHandle` where it is no kernel of a library: a module's function is none.
    pub fn kernel_library(&self, kernel: u64) -> Answer<u64> {
        let state = self.state.lock();
        let found = state.functions.get(&kernel).filter(|_| Kind::Kernel.is_of(kernel));
        Ok(found.ok_or(Fault::InvalidHandle)?.owner)
    }

    /// How many kernels a library has.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn kernel_count(&self, library: u64) -> Answer<usize> {
        let state = self.state.lock();
        Ok(state.libraries.get(&library).ok_or(Fault::InvalidHandle)?.program.kernels.len())
    }

    /// The first `most` kernels of a library, in the order of its text.
    ///
    /// # Errors
    /// As [`Self::kernel_count`].
    pub fn library_kernels(&self, library: u64, most: usize) -> Answer<Vec<u64>> {
        let mut state = self.state.lock();
        let program = state.libraries.get(&library).ok_or(Fault::InvalidHandle)?.program.clone();
        let kernels = program.kernels.iter().take(most);
        kernels.map(|k| state.add_function(Kind::Kernel, library, &program, &k.name)).collect()
    }

    pub(super) fn library_module_in(&self, state: &mut State, context: u64, library: u64) -> Answer<u64> {
        let found = state.libraries.get(&library).ok_or(Fault::InvalidHandle)?;
        if let Some(module) = found.modules.get(&context) {
            return Ok(*module);
        }
        let module = self.instantiate(state, context, found.program.clone())?;
        if let Some(found) = state.libraries.get_mut(&library) {
            found.modules.insert(context, module);
        }
        Ok(module)
    }
}
