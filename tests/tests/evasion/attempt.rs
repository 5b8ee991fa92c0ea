//! A tenant whose quota is full to the brim, and what a row does with it; or a program outside of any quota that does the same.

use std::path::PathBuf;

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::{Answer, Arg, Console};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program};

use crate::binding::Column;
use crate::{QUOTA, QUOTA_BYTES, TAKE};

/// What a row's reserve has more than it tries to take: contexts take a little more than half a GiB, local memory 792 MiB.
const MORE: u64 = 320 * MIB;

/// By how much the device's figure may be over the quota: what a context grows by inside one call, in MiB of the invariant.
const GROWTH: u64 = 48 * MIB;

/// How often a figure that must fall is looked at, and how long apart: a dead process's memory returns after 0.2 s.
const LOOKS: u32 = 100;
const APART_MS: u64 = 5;

/// The driver's status where a row ended.
pub(crate) type Ended = Result<(), i64>;

/// One tenant, its console bound in the way of a column.
pub(crate) struct Attempt<'a> {
    machine: &'a Machine,
    pub(crate) column: Column,
    /// The console. Calls through it directly are found by `dlsym`.
    pub(crate) console: Console,
    observer: &'a mut Console,
    /// What the device has taken without this tenant, bytes.
    base: u64,
    /// One allocation that a row may free to make room, and the others that fill the quota.
    reserve: Option<u64>,
    pieces: Vec<u64>,
    /// Whether a row has freed them all.
    is_emptied: bool,
    /// What ends what the row made, in the order in which it was made.
    undo: Vec<(&'static str, Vec<u64>)>,
    /// Descriptors that a row left open.
    descriptors: Vec<u64>,
    /// Whether a row started a process outside of any quota.
    has_company: bool,
    /// Whether a function was called that has a form for per-thread streams.
    has_twin: bool,
}

impl<'a> Attempt<'a> {
    /// Starts a tenant and fills its quota. `observer` is a process outside of any quota.
    pub(crate) fn new(machine: &'a Machine, column: Column, observer: &'a mut Console) -> Self {
        let mut this = Self::of(machine, column, observer, tenant(machine, column));
        this.fill_all();
        this
    }

    /// Starts a program outside of any quota, which has taken nothing.
    pub(crate) fn natively(machine: &'a Machine, column: Column, observer: &'a mut Console) -> Self {
        Self::of(machine, column, observer, machine.native_of(&program(column)))
    }

    fn of(machine: &'a Machine, column: Column, observer: &'a mut Console, program: Program) -> Self {
        let base = observer.nvml_memory().used;
        let mut this = Self {
            machine,
            column,
            console: prepared(program).start_with_context(),
            observer,
            base,
            reserve: None,
            pieces: Vec::new(),
            is_emptied: false,
            undo: Vec::new(),
            descriptors: Vec::new(),
            has_company: false,
            has_twin: false,
        };
        this.warm();
        this
    }

    /// Ends the tenant, which is of no more use, and starts it anew.
    pub(crate) fn renew(&mut self) {
        let fresh = prepared(tenant(self.machine, self.column));
        let old = std::mem::replace(&mut self.console, fresh.start());
        self.kill_other(old);
        self.base = self.observer.nvml_memory().used;
        (self.reserve, self.is_emptied) = (None, false);
        self.console.use_primary_context();
        self.warm();
        self.fill_all();
    }

    /// Takes the whole quota: a reserve, which rows may free, and the rest.
    fn fill_all(&mut self) {
        self.reserve = self.console.alloc(TAKE + MORE).ok();
        assert!(self.reserve.is_some(), "an empty quota has room for what rows try to take");
        self.pieces = self.fill();
    }

    /// Lets the context grow to its size before anything is counted.
    fn warm(&mut self) {
        let image = cuota_tests::code::idle();
        let module = self.console.call("cuModuleLoadData", &[Out(8), Arg::At(&image)]).ok().number(0);
        let name = Arg::Text("idle");
        let idle = self.console.call("cuModuleGetFunction", &[Out(8), Is(module), name]).ok().number(0);
        let one = Is(1);
        let none = Is(0);
        let launch = [Is(idle), one, one, one, one, one, one, none, none, none, none];
        let _ = self.console.call("cuLaunchKernel", &launch).ok();
        self.console.synchronize();
    }

    /// Takes what is left of the quota.
    ///
    /// # Panics
    /// If a piece is refused for another reason than want of room.
    fn fill(&mut self) -> Vec<u64> {
        let (mut pieces, mut bytes) = (Vec::new(), 1024 * MIB);
        while bytes >= 2 * MIB {
            match self.console.alloc(bytes) {
                Ok(piece) => pieces.push(piece),
                Err(OUT_OF_MEMORY) => bytes /= 2,
                Err(status) => panic!("an allocation fails with {status}"),
            }
        }
        pieces
    }

    /// Makes what a row needs first, and fills the quota again where it was full.
    pub(crate) fn first<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<T, i64>) -> Result<T, i64> {
        let was_full = self.reserve.is_some();
        self.make_room();
        let made = make(self)?;
        if was_full {
            self.refill();
        }
        Ok(made)
    }

    /// Frees all that fills the quota, for a row that needs more than the reserve. The tenant is of no use to later rows.
    pub(crate) fn empty(&mut self) {
        self.make_room();
        for piece in std::mem::take(&mut self.pieces) {
            assert_eq!(self.console.free(piece), 0);
        }
        self.is_emptied = true;
    }

    /// Takes what is left of the quota, until the row's end.
    pub(crate) fn refill(&mut self) {
        self.fill().into_iter().for_each(|piece| self.later("cuMemFree_v2", &[piece]));
    }

    /// Another process of the tenant, with a context.
    ///
    /// # Errors
    /// The driver's status, where it gets none.
    pub(crate) fn sibling(&self) -> Result<Console, i64> {
        let mut sibling = self.machine.tenant("t", Some(QUOTA)).start();
        let _ = sibling.call("cuInit", &[Is(0)]).ok();
        let context = sibling.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]);
        if context.status != 0 {
            return Err(context.status);
        }
        let _ = sibling.call("cuCtxSetCurrent", &[Is(context.number(0))]).ok();
        Ok(sibling)
    }

    /// A process outside of any quota, with a context: what it has counts for the tenant until it ends.
    pub(crate) fn stranger(&mut self) -> Console {
        self.has_company = true;
        self.machine.native().start_with_context()
    }

    /// Frees the reserve, if it is there.
    pub(crate) fn make_room(&mut self) {
        if let Some(piece) = self.reserve.take() {
            assert_eq!(self.console.free(piece), 0);
        }
    }

    /// Takes the reserve again. `false`: its room is gone.
    fn take_reserve(&mut self) -> bool {
        self.reserve = self.reserve.or_else(|| self.console.alloc(TAKE + MORE).ok());
        self.reserve.is_some()
    }

    /// Calls a function, found in the column's way; the status -404 says that it is not there.
    pub(crate) fn call(&mut self, symbol: &str, arguments: &[Arg<'_>]) -> Answer {
        self.has_twin |= self.column.differs_for(symbol);
        self.console.call(&self.column.spell(symbol), arguments)
    }

    /// Calls a function up to `count` times, while it succeeds.
    pub(crate) fn repeat(&mut self, count: u64, symbol: &str, arguments: &[Arg<'_>]) -> Ended {
        self.has_twin |= self.column.differs_for(symbol);
        match self.console.repeat(count, &self.column.spell(symbol), arguments).0 {
            0 => Ok(()),
            status => Err(status),
        }
    }

    /// Calls a function that must succeed for the row to go on.
    pub(crate) fn done(&mut self, symbol: &str, arguments: &[Arg<'_>]) -> Ended {
        match self.call(symbol, arguments).status {
            0 => Ok(()),
            status => Err(status),
        }
    }

    /// Calls a function that writes a handle or an address to its first argument: that.
    pub(crate) fn make(&mut self, symbol: &str, arguments: &[Arg<'_>]) -> Result<u64, i64> {
        let answer = self.call(symbol, arguments);
        if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
    }

    /// As [`Self::make`], and notes how to end what was made: a function of it alone.
    pub(crate) fn keep(
        &mut self,
        symbol: &str,
        arguments: &[Arg<'_>],
        end: &'static str,
    ) -> Result<u64, i64> {
        let made = self.make(symbol, arguments)?;
        self.undo.push((end, vec![made]));
        Ok(made)
    }

    /// Notes a call that ends something.
    pub(crate) fn later(&mut self, end: &'static str, arguments: &[u64]) {
        self.undo.push((end, arguments.to_vec()));
    }

    /// As [`Self::make`], of a call that writes a descriptor, which stays open until the row's end.
    pub(crate) fn open(&mut self, symbol: &str, arguments: &[Arg<'_>]) -> Result<u64, i64> {
        let descriptor = self.make(symbol, arguments)? & u64::from(u32::MAX);
        self.descriptors.push(descriptor);
        Ok(descriptor)
    }

    /// Closes the descriptor that was opened first (its number becomes another file's).
    pub(crate) fn close_first_descriptor(&mut self) {
        if !self.descriptors.is_empty() {
            let first = self.descriptors.remove(0);
            let _ = self.console.ask(&format!("openas {first}"));
        }
    }

    /// Waits for all work of the context.
    pub(crate) fn settle(&mut self) -> Ended {
        self.done("cuCtxSynchronize", &[])
    }

    /// A stream of the row's own.
    pub(crate) fn stream(&mut self) -> Result<u64, i64> {
        self.keep("cuStreamCreate", &[Out(8), Is(1)], "cuStreamDestroy_v2")
    }

    /// Kills a process, and waits until what it had alone is gone: an H100 needs some 100 ms for it.
    pub(crate) fn kill_other(&mut self, process: Console) {
        kill(process, self.observer);
    }

    /// Kills the tenant, as [`Self::kill_other`].
    pub(crate) fn kill(self) {
        kill(self.console, self.observer);
    }

    /// What the tenant has of the device beyond its quota, bytes, once that no longer falls.
    pub(crate) fn beyond_quota(&mut self) -> u64 {
        let mut beyond = u64::MAX;
        for _ in 0..LOOKS {
            beyond = beyond.min(self.taken().saturating_sub(QUOTA_BYTES));
            if beyond <= GROWTH {
                return 0;
            }
            std::thread::sleep(std::time::Duration::from_millis(APART_MS));
        }
        beyond
    }

    /// What the tenant has of the device, bytes.
    pub(crate) fn taken(&mut self) -> u64 {
        self.observer.nvml_memory().used.saturating_sub(self.base)
    }

    /// Whether any call since this was asked last has a form for per-thread streams.
    pub(crate) fn had_twin(&mut self) -> bool {
        std::mem::take(&mut self.has_twin)
    }

    /// Whether a row started a process outside of any quota since this was asked last.
    pub(crate) fn had_company(&mut self) -> bool {
        std::mem::take(&mut self.has_company)
    }

    /// Whether the column finds any function at all.
    pub(crate) fn finds(&mut self) -> bool {
        match self.call("cuCtxGetDevice", &[Out(4)]).status {
            crate::NOT_THERE => false,
            status => status == 0 || !self.column.is_runtime(),
        }
    }

    /// Ends what the row made. `false`: something of it is left, and the tenant is of no more use.
    pub(crate) fn clean(&mut self) -> bool {
        for (end, arguments) in std::mem::take(&mut self.undo).into_iter().rev() {
            let arguments: Vec<Arg<'_>> = arguments.into_iter().map(Is).collect();
            let _ = self.console.call(end, &arguments);
        }
        for descriptor in std::mem::take(&mut self.descriptors) {
            let _ = self.console.ask(&format!("openas {descriptor}"));
        }
        let _ = self.console.call("cuCtxSynchronize", &[]);
        let _ = self.console.call("cuDeviceGraphMemTrim", &[Is(0)]);
        let pool = self.console.default_pool();
        let _ = self.console.call("cuMemPoolTrimTo", &[Is(pool), Is(0)]);
        !self.is_emptied
            && self.take_reserve()
            && self.console.call("cuCtxSynchronize", &[]).status == 0
            && self.beyond_quota() == 0
    }
}

fn kill(process: Console, observer: &mut Console) {
    let pid = u64::from(process.pid());
    process.kill();
    for _ in 0..LOOKS {
        // NVML lists a process no shorter than it shows its memory.
        if observer.nvml_neighbours().iter().all(|(listed, _)| *listed != pid) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(APART_MS));
    }
}

/// With what the columns and rows need that a machine need not have.
fn prepared(program: Program) -> Program {
    let program = program.with_old_forms();
    match build::cudart() {
        Some(runtime) => program.with("CUOTA_CUDART", runtime),
        None => program,
    }
}

fn tenant(machine: &Machine, column: Column) -> Program {
    machine.tenant_of(&program(column), "t", Some(QUOTA))
}

/// The console that a column asks for.
fn program(column: Column) -> PathBuf {
    if column.is_linked() { build::linked_console().to_path_buf() } else { build::program("console") }
}
