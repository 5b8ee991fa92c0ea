//! What a hook is, and the table of all of them.

use core::ffi::{CStr, c_void};
use core::marker::PhantomData;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::driver::Library;
use crate::arch;
use crate::elf::Image;
use crate::elf::hash::Name;
use crate::hooks_table::{CALLED, CALLS, FIRST_CALL_OF_NVML, FIRST_OF_NVML, HOOKED};

/// The place of one real function of the driver, of type `F`: a `PFN_*` type of `cuota-abi`.
///
/// A constant, so that no pointer to the place has to be relocated: two for each row were an eighth of the library.
pub(crate) struct Slot<F> {
    library: Library,
    real: &'static AtomicPtr<c_void>,
    /// Its number among those that handlers call: shorter to say than where it is.
    called: Option<usize>,
    function: PhantomData<F>,
}

impl<F: Copy> Slot<F> {
    pub(crate) const fn new(library: Library, real: &'static AtomicPtr<c_void>) -> Self {
        assert!(size_of::<F>() == size_of::<*mut c_void>());
        Self { library, real, called: None, function: PhantomData }
    }

    /// That of a function with this number in [`CALLED`].
    pub(crate) const fn of_call(library: Library, number: usize) -> Self {
        Self { called: Some(number), ..Self::new(library, &CALLED[number]) }
    }

    /// The driver's own function; `None` if the driver is not loaded or does not have it. One load and a branch, once
    /// the driver has been seen.
    #[inline(always)]
    pub(crate) fn find(&self) -> Option<F> {
        let mut real = self.real.load(Ordering::Acquire);
        if real.is_null() {
            arch::attach(self.library);
            real = self.real.load(Ordering::Acquire);
        }
        // SAFETY: `F` has the size of a pointer and is the type of the driver's function (`hooks!` checks it against
        // the wrapper); the address is not null.
        (!real.is_null()).then(|| unsafe { core::mem::transmute_copy::<*mut c_void, F>(&real) })
    }

    /// Puts another in the driver's place.
    #[cfg(test)]
    pub(crate) fn stand_in(&self, function: *mut c_void) {
        self.real.store(function, Ordering::Release);
    }

    /// The driver's own function, or where there is none, one that answers `CUDA_ERROR_NOT_FOUND`.
    #[inline(always)]
    pub(crate) fn get(&self) -> F {
        let real = self.called.map_or_else(|| arch::real(self.real), arch::called);
        // SAFETY: as above; the function that stands in takes any arguments, and answers as those of libcuda do.
        unsafe { core::mem::transmute_copy::<*mut c_void, F>(&real) }
    }
}

/// A hook.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    number: usize,
    wrapper: *const c_void,
}

/// By their hooks' numbers: the exported wrappers, once the library is attached.
static WRAPPERS: [AtomicPtr<c_void>; HOOKED.len()] = [const { AtomicPtr::new(null_mut()) }; HOOKED.len()];

impl Row {
    /// The hook whose wrapper this is, if it is one.
    ///
    /// # Safety
    /// A function that we export.
    unsafe fn of_export(export: *const c_void) -> Option<Self> {
        // SAFETY: the caller's contract.
        Some(Row { number: unsafe { arch::number_in_stub(export) }?, wrapper: export })
    }

    /// Whose function it hooks.
    pub(crate) fn library(self) -> Library {
        if self.number < FIRST_OF_NVML { Library::Cuda } else { Library::Nvml }
    }

    /// The exported wrapper, which is what is handed out.
    pub(crate) fn hook(self) -> *mut c_void {
        self.wrapper.cast_mut()
    }

    /// Whether the driver that is loaded has this function.
    pub(crate) fn is_resolved(self) -> bool {
        HOOKED.get(self.number).is_some_and(|place| !place.load(Ordering::Acquire).is_null())
    }
}

/// What we export under this name; null: nothing.
#[inline(never)]
pub(super) fn export(name: Name) -> *mut c_void {
    Image::own().map_or(null_mut(), |own| own.function(name))
}

/// The hook of this name: our own symbol table has the names.
pub(crate) fn named(name: &CStr) -> Option<Row> {
    let export = export(Name::of(name.to_bytes()));
    // SAFETY: not null, so it is an export of ours.
    if export.is_null() { None } else { unsafe { Row::of_export(export) } }
}

/// The hook whose real function lies at this address. Two names of one address (`cuMemAlloc_v2` and an alias) have the same
/// parameters, so either hook is right.
pub(crate) fn replacing(address: *const c_void) -> Option<Row> {
    let is_it = |place: &AtomicPtr<c_void>| place.load(Ordering::Acquire).cast_const() == address;
    let number = if address.is_null() { None } else { HOOKED.iter().position(is_it) }?;
    Some(Row { number, wrapper: WRAPPERS.get(number)?.load(Ordering::Relaxed) })
}

/// How many functions we export that are no hooks: `dlsym`, `dlvsym`, `dlopen` and `dlmopen`.
const TRAMPOLINES: usize = 4;

/// Finds the real functions of a library in the object that is this library: those that are hooked, and those that we
/// call ourselves.
pub(super) fn resolve(library: Library, image: &Image) {
    let find = |name: Name, place: Option<&AtomicPtr<c_void>>| {
        let address = image.function(name);
        if let Some(place) = place.filter(|_| !address.is_null()) {
            place.store(address, Ordering::Release);
        }
    };
    let Some(own) = Image::own() else { return };
    for nth in 0..HOOKED.len() + TRAMPOLINES {
        if let Some((name, export)) = own.nth_function(nth)
            // SAFETY: we have so many exports.
            && let Some(row) = unsafe { Row::of_export(export) }
            && row.library() == library
            && let Some(wrapper) = WRAPPERS.get(row.number)
        {
            wrapper.store(row.hook(), Ordering::Relaxed);
            find(Name::of(name.to_bytes()), HOOKED.get(row.number));
        }
    }
    for (number, name) in CALLS.iter().enumerate() {
        if (number < FIRST_CALL_OF_NVML) == (library == Library::Cuda) {
            find(*name, CALLED.get(number));
        }
    }
}

/// The number of the first function of NVML in a table, where those of libcuda stand first.
pub(crate) const fn first_of_nvml(libraries: &[Library]) -> usize {
    let mut first = 0;
    while first < libraries.len() && matches!(libraries[first], Library::Cuda) {
        first += 1;
    }
    let mut next = first;
    while next < libraries.len() {
        assert!(matches!(libraries[next], Library::Nvml), "libcuda's functions stand first");
        next += 1;
    }
    first
}

/// Numbers the handlers of these names, as they first come.
pub(crate) const fn number_handlers<const N: usize>(names: &[&str; N]) -> [usize; N] {
    let (mut numbers, mut distinct, mut hook) = ([0; N], 0, 0);
    while hook < N {
        let mut same = 0;
        while !is_same(names[same].as_bytes(), names[hook].as_bytes()) {
            same += 1;
        }
        if same == hook {
            numbers[hook] = distinct;
            distinct += 1;
        } else {
            numbers[hook] = numbers[same];
        }
        hook += 1;
    }
    numbers
}

const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([first, rest @ ..], [of_other, rest_of_other @ ..]) = (one, other) {
        if *first != *of_other {
            return false;
        }
        (one, other) = (rest, rest_of_other);
    }
    one.is_empty() && other.is_empty()
}

/// 1 where a hook is the first with its handler, else 0.
pub(crate) const fn is_first(handlers: &[usize], hook: usize) -> i32 {
    let mut before = 0;
    while before < hook {
        if handlers[before] == handlers[hook] {
            return 0;
        }
        before += 1;
    }
    1
}

/// Declares hooks, one line each: the name of the symbol, its `PFN_*` type, the parameters, and the handler.
///
/// ```text
/// hooks! {
///     Cuda -> CUresult {
///         cuMemAlloc_v2: PFN_cuMemAlloc_v3020
///             fn(dptr: *mut CUdeviceptr, bytesize: usize) => plain::alloc;
///         // twins: one handler for several symbols of the same parameters
///         cuMemFreeAsync: PFN_cuMemFreeAsync_v11020, cuMemFreeAsync_ptsz: PFN_cuMemFreeAsync_v11020_ptsz
///             fn(dptr: CUdeviceptr, stream: CUstream) => pool::free_async;
///     }
/// }
/// ```
///
/// A line writes the exported wrapper, which is a stub, the slot of the real function (`<name>::REAL`) and the row of the tables;
/// the build fails where the wrapper's type is not the `PFN_*` type. The handler takes a
/// [`Call`](crate::interpose::call::Call), with the number in brackets after it, if there is one, as its note.
macro_rules! hooks {
    ($($library:ident -> $status:ty {
        $( $($name:ident : $pfn:ident),+ fn $args:tt => $handler:path $([$note:expr])? ; )*
    })*) => {
        $($(
            $crate::interpose::table::hooks!(@line $library, $status, [$($name: $pfn),+], $args, $handler, 0 $(+ $note)?);
        )*)*

        /// The hooks' numbers.
        #[allow(non_camel_case_types)]
        enum Hook { $($($($name,)+)*)* Count }

        /// The driver's own functions, by their hooks' numbers.
        pub(crate) static HOOKED: [core::sync::atomic::AtomicPtr<core::ffi::c_void>; Hook::Count as usize] =
            [const { core::sync::atomic::AtomicPtr::new(core::ptr::null_mut()) }; Hook::Count as usize];

        /// The number of the first hook of NVML: those of libcuda stand first.
        pub(crate) const FIRST_OF_NVML: usize = $crate::interpose::table::first_of_nvml(
            &[ $($($( { let _ = Hook::$name; $crate::interpose::driver::Library::$library }, )+)*)* ]
        );

        /// By the hooks' numbers: the number of the handler.
        const HANDLERS: [usize; Hook::Count as usize] = $crate::interpose::table::number_handlers(
            &[ $($($( { let _ = Hook::$name; stringify!($handler) }, )+)*)* ]
        );

        /// The handler of most launches; the next is that of those with a configuration.
        pub(crate) const LAUNCHES: usize = HANDLERS[Hook::cuLaunchKernel as usize];
        const _: () = assert!(HANDLERS[Hook::cuLaunchKernelEx as usize] == LAUNCHES + 1);

        // Where each handler lies, as its distance from here: an address would have to be relocated in each process. Each stands where its
        // first hook does.
        core::arch::global_asm!(
            ".pushsection .rodata.handler_offsets, \"a\"",
            ".p2align 2",
            ".globl handler_offsets",
            ".hidden handler_offsets",
            "handler_offsets:",
            $($($( $crate::interpose::table::hooks!(@offset $name), )+)*)*
            ".popsection",
            $($($( const $crate::interpose::table::is_first(&HANDLERS, Hook::$name as usize), sym $handler, )+)*)*
        );

        unsafe extern "C" {
            /// By the handlers' numbers: the distance of each from here, bytes. Read by [`crate::arch::gate`].
            pub(crate) static handler_offsets: i32;
        }
    };
    (@offset $name:ident) => { ".if {}; .long {} - handler_offsets; .endif" };
    (@line $library:ident, $status:ty, [$($name:ident : $pfn:ident),+], $args:tt, $handler:path, $note:expr) => {
        $($crate::interpose::table::hooks!(@hook $library, $status, $name, $pfn, $args, $note);)+
        const _: unsafe extern "C" fn(&$crate::interpose::call::Call) -> $status = $handler;
    };
    (@hook $library:ident, $status:ty, $name:ident, $pfn:ident, ($($arg:ident : $ty:ty),* $(,)?), $note:expr) => {
        #[doc = concat!("The driver's `", stringify!($name), "`, under management.")]
        ///
        /// # Safety
        /// As the driver's function.
        #[allow(non_snake_case)]
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle), unsafe(link_section = ".text.stubs"))]
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> $status {
            $crate::arch::stub!({
                const SIZES: &[usize] = &[$(size_of::<$ty>()),*];
                let number = Hook::$name as usize;
                $crate::interpose::call::word_of(number, HANDLERS[number], $note, stringify!($name), SIZES)
            }, Hook::Count as usize)
        }

        const _: $pfn = $name;

        #[allow(non_snake_case)]
        pub(crate) mod $name {
            #[allow(dead_code, reason = "a hook needs none, unless we call the function ourselves")]
            pub(crate) const REAL: $crate::interpose::table::Slot<super::$pfn> = $crate::interpose::table::Slot::new(
                $crate::interpose::driver::Library::$library,
                &super::HOOKED[super::Hook::$name as usize],
            );
        }
    };
}
pub(crate) use hooks;

/// Declares functions of the driver that are not hooked, but called by handlers: `<name>.get()` in the module `real`.
///
/// ```text
/// calls! {
///     Cuda { cuCtxGetDevice: PFN_cuCtxGetDevice_v2000; }
/// }
/// ```
macro_rules! calls {
    ($($library:ident { $( $name:ident : $pfn:ident ; )* })*) => {
        /// The driver's functions that handlers call.
        #[allow(non_upper_case_globals)]
        pub(crate) mod real {
            use super::*;
            $($(
                pub(crate) const $name: $crate::interpose::table::Slot<$pfn> = $crate::interpose::table::Slot::of_call(
                    $crate::interpose::driver::Library::$library,
                    super::Call::$name as usize,
                );
            )*)*
        }

        /// Their numbers.
        #[allow(non_camel_case_types)]
        enum Call { $($($name,)*)* Count }

        /// The driver's own functions, by these numbers.
        pub(crate) static CALLED: [core::sync::atomic::AtomicPtr<core::ffi::c_void>; Call::Count as usize] =
            [const { core::sync::atomic::AtomicPtr::new(core::ptr::null_mut()) }; Call::Count as usize];

        /// The name of every function that handlers call.
        pub(crate) static CALLS: [$crate::elf::hash::Name; Call::Count as usize] =
            [ $($( $crate::elf::hash::Name::of(stringify!($name).as_bytes()), )*)* ];

        /// The number of the first of NVML: those of libcuda stand first.
        pub(crate) const FIRST_CALL_OF_NVML: usize = $crate::interpose::table::first_of_nvml(
            &[ $($( { let _ = Call::$name; $crate::interpose::driver::Library::$library }, )*)* ]
        );
    };
}
pub(crate) use calls;
