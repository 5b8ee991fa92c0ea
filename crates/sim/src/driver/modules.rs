//! Modules: programs in a context, and the functions that can be launched.

use super::allocate::Keeper;
use super::handle::{Kind, fresh};
use super::legacy::Setting;
use super::{Driver, State, context};
use crate::error::{Answer, Fault};
use crate::ptx::{self, Kernel, Program};
use crate::shared::Charge;
use std::collections::HashMap;
use std::sync::Arc;

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    context: u64,
    device: u32,
    program: Arc<Program>,
    variables: HashMap<String, (u64, u64)>,
}

/// A function of a module, or a kernel of a library.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// The module or the library.
    pub(super) owner: u64,
    pub(super) kernel: Arc<Kernel>,
    /// What the calls of CUDA 2 have set for its launches.
    pub(super) setting: Setting,
}

impl Driver {
    /// Loads PTX into the current context.
    ///
    /// # Errors
    /// `InvalidImage` where it is no PTX: the model runs no machine code; `OutOfMemory`; `InvalidContext`.
    pub fn load_module(&self, image: &[u8]) -> Answer<u64> {
        let program = Arc::new(read_program(image)?);
        self.in_context(|state, context| self.instantiate(state, context, program))
    }

    /// Unloads a module.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn unload_module(&self, module: u64) -> Answer<()> {
        let device = self.state.lock().modules.get(&module).ok_or(Fault::InvalidHandle)?.device;
        self.gpu_of(device).wait_idle()?;
        self.end_module(&mut self.state.lock(), module);
        Ok(())
    }

    /// The function `name` of a module.
    ///
    /// # Errors
    /// `InvalidHandle` where it is no module; `NotFound` where it has no such function.
    pub fn function(&self, module: u64, name: &str) -> Answer<u64> {
        let mut state = self.state.lock();
        let program = state.modules.get(&module).ok_or(Fault::InvalidHandle)?.program.clone();
        state.add_function(Kind::Function, module, &program, name)
    }

    /// Address and size of a variable of a module.
    ///
    /// # Errors
    /// `InvalidHandle` where it is no module; `NotFound` where it has no such variable.
    pub fn variable(&self, module: u64, name: &str) -> Answer<(u64, u64)> {
        let state = self.state.lock();
        let found = state.modules.get(&module).ok_or(Fault::InvalidHandle)?;
        found.variables.get(name).copied().ok_or(Fault::NotFound)
    }

    /// The kernel behind a function's handle, its module loaded in `context`.
    pub(super) fn ready_function(
        &self,
        state: &mut State,
        context: u64,
        function: u64,
    ) -> Answer<Arc<Kernel>> {
        let found = state.functions.get(&function).cloned().ok_or(Fault::InvalidHandle)?;
        if state.libraries.contains_key(&found.owner) {
            self.library_module_in(state, context, found.owner)?;
        }
        Ok(found.kernel)
    }

    /// The kernel behind a function's handle.
    ///
    /// # Errors
    /// `InvalidHandle` where it names none.
    pub fn kernel(&self, function: u64) -> Answer<Arc<Kernel>> {
        Ok(self.state.lock().functions.get(&function).ok_or(Fault::InvalidHandle)?.kernel.clone())
    }

    pub(super) fn end_modules_of(&self, state: &mut State, context: u64) {
        let all: Vec<u64> =
            state.modules.iter().filter(|(_, m)| m.context == context).map(|(&m, _)| m).collect();
        all.into_iter().for_each(|module| self.end_module(state, module));
    }

    pub(super) fn instantiate(&self, state: &mut State, context: u64, program: Arc<Program>) -> Answer<u64> {
        let device = state.contexts.get(&context).ok_or(Fault::InvalidContext)?.device();
        self.gpu_of(device).take(Charge::Module, context::MODULE_BYTES)?;
        let mut variables = HashMap::new();
        for variable in program.variables.iter().filter(|v| v.bytes > 0) {
            // A variable takes blocks like any allocation: one of 256 MiB took 256 MiB on an H100.
            match self.allocate_in(state, context, variable.bytes, Keeper::Module) {
                Ok(address) => variables.insert(variable.name.clone(), (address, variable.bytes)),
                Err(fault) => {
                    self.free_variables(state, &variables);
                    self.gpu_of(device).give(Charge::Module, context::MODULE_BYTES);
                    return Err(fault);
                }
            };
        }
        let handle = fresh(Kind::Module);
        state.modules.insert(handle, Module { context, device, program, variables });
        Ok(handle)
    }

    pub(super) fn end_module(&self, state: &mut State, module: u64) {
        let Some(gone) = state.modules.remove(&module) else { return };
        state.functions.retain(|_, f| f.owner != module);
        for library in state.libraries.values_mut() {
            library.modules.retain(|_, m| *m != module);
        }
        self.free_variables(state, &gone.variables);
        self.gpu_of(gone.device).give(Charge::Module, context::MODULE_BYTES);
    }

    fn free_variables(&self, state: &mut State, variables: &HashMap<String, (u64, u64)>) {
        for (address, _) in variables.values() {
            if let Some(allocation) = state.allocations.remove(address) {
                self.end_allocation(state, *address, allocation);
            }
        }
    }
}

impl State {
    pub(super) fn add_function(
        &mut self,
        kind: Kind,
        owner: u64,
        program: &Program,
        name: &str,
    ) -> Answer<u64> {
        let known = self.functions.iter().find(|(_, f)| f.owner == owner && f.kernel.name == name);
        if let Some((handle, _)) = known {
            return Ok(*handle);
        }
        let kernel = program.kernels.iter().find(|k| k.name == name).ok_or(Fault::NotFound)?;
        let handle = fresh(kind);
        self.functions.insert(
            handle,
            Function { owner, kernel: Arc::new(kernel.clone()), setting: Setting::default() },
        );
        Ok(handle)
    }
}

pub(super) fn read_program(image: &[u8]) -> Answer<Program> {
    let text = std::str::from_utf8(image).ok().and_then(ptx::parse);
    text.ok_or_else(|| {
        crate::log::once(
            "a module's image is no PTX text: the model runs no machine code (cubin, fatbin), INVALID_IMAGE",
        );
        Fault::InvalidImage
    })
}
