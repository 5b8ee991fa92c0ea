//! Driver functions as plain pointers, twice: as a program finds them, so hooked where a system hooks, and the driver's own
//! whatever is interposed. Called side by side in one process they show what a hook adds, without the noise between
//! processes. They return a number and not an enumeration, since a hook can return what no driver does.

use std::ffi::{CStr, CString, c_char, c_uint, c_ulonglong, c_void};
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cudarc::driver::sys::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_MEM_ALLOC_NODE_PARAMS, CUarray, CUcontext, CUdevice, CUdeviceptr,
    CUdriverProcAddressQueryResult, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUlaunchConfig,
    CUmemAllocationProp, CUmemGenericAllocationHandle, CUmemPoolProps, CUmemoryPool, CUstream,
};
use object::elf::STT_FUNC;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, ReadCache, SymbolFlags};

use super::device::open_driver;

/// Functions by name.
pub trait Set: Sized {
    /// Their names.
    const NAMES: &'static [&'static str];

    /// The set, each function at the address that `address` finds for its name.
    ///
    /// # Errors
    /// Those of `address`.
    fn from_addresses(address: impl FnMut(&str) -> Result<*mut c_void>) -> Result<Self>;
}

macro_rules! functions {
    ($(#[$about:meta])* $set:ident: $($name:ident($($argument:ty),*);)*) => {
        $(#[$about])*
        #[expect(non_snake_case, reason = "the driver's own names")]
        pub struct $set {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub $name: unsafe extern "C" fn($($argument),*) -> u32,
            )*
        }

        impl Set for $set {
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            fn from_addresses(mut address: impl FnMut(&str) -> Result<*mut c_void>) -> Result<Self> {
                Ok(Self {
                    $(
                        // SAFETY: the address is that of the driver's function of this name, or of a hook in its
                        // place; the signature is that of the CUDA driver API.
                        $name: unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> u32>(
                                address(stringify!($name))?,
                            )
                        },
                    )*
                })
            }
        }
    };
}

functions! {
    /// The functions of start, of memory, and those that do nothing on the device.
    Functions:
    cuInit(c_uint);
    cuDeviceGet(*mut CUdevice, i32);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuCtxCreate_v2(*mut CUcontext, c_uint, CUdevice);
    cuCtxDestroy_v2(CUcontext);
    cuCtxGetDevice(*mut CUdevice);
    cuGetProcAddress_v2(*const c_char, *mut *mut c_void, i32, u64, *mut CUdriverProcAddressQueryResult);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemAllocAsync(*mut CUdeviceptr, usize, CUstream);
    cuMemFreeAsync(CUdeviceptr, CUstream);
    cuMemCreate(*mut CUmemGenericAllocationHandle, usize, *const CUmemAllocationProp, c_ulonglong);
    cuMemMap(CUdeviceptr, usize, usize, CUmemGenericAllocationHandle, c_ulonglong);
    cuMemUnmap(CUdeviceptr, usize);
    cuMemRelease(CUmemGenericAllocationHandle);
}

functions! {
    /// The functions that submit work.
    Launches:
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void
    );
    cuLaunchKernelEx(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
    cuGraphLaunch(CUgraphExec, CUstream);
}

functions! {
    /// The functions of further paths to memory.
    FurtherFunctions:
    cuMemPoolCreate(*mut CUmemoryPool, *const CUmemPoolProps);
    cuMemAllocFromPoolAsync(*mut CUdeviceptr, usize, CUmemoryPool, CUstream);
    cuArrayCreate_v2(*mut CUarray, *const CUDA_ARRAY_DESCRIPTOR);
    cuGraphCreate(*mut CUgraph, c_uint);
    cuGraphAddMemAllocNode(
        *mut CUgraphNode, CUgraph, *const CUgraphNode, usize, *mut CUDA_MEM_ALLOC_NODE_PARAMS
    );
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuStreamSynchronize(CUstream);
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What `dlsym` gives.
    Hooked,
    /// What the driver's file has under the name.
    Own,
}

/// Both sets.
pub struct Both<S: Set = Functions> {
    hooked: S,
    own: S,
}

impl<S: Set> Both<S> {
    /// Finds both, opening the driver where it is not open.
    ///
    /// # Errors
    /// In words, when a function is missing or the driver's file cannot be read.
    pub fn find() -> Result<Self> {
        Ok(Self { hooked: as_a_program_finds_them()?, own: drivers_own()? })
    }

    /// The functions of one side.
    #[inline(always)]
    pub fn of(&self, side: Side) -> &S {
        match side {
            Side::Hooked => &self.hooked,
            Side::Own => &self.own,
        }
    }
}

/// Through `dlopen` and `dlsym`, so through whatever is interposed.
pub fn as_a_program_finds_them<S: Set>() -> Result<S> {
    let handle = open_driver()?;
    S::from_addresses(|name| {
        let symbol = CString::new(name)?;
        // SAFETY: the handle is open and never closed; the name ends with NUL.
        let address = unsafe { libc::dlsym(handle.as_ptr(), symbol.as_ptr()) };
        if address.is_null() {
            bail!("the driver has no {name}");
        }
        Ok(address)
    })
}

/// By the driver's file: where it is mapped, and the values in its dynamic symbol table. No look-up that could be
/// interposed takes part.
fn drivers_own<S: Set>() -> Result<S> {
    let mapped = mapped_driver().context("libcuda.so.1 is open and is not among the loaded objects")?;
    let values = symbol_values(&mapped.path, S::NAMES)
        .with_context(|| format!("the symbols of the driver, {}", mapped.path.to_string_lossy()))?;
    S::from_addresses(|name| {
        let position = S::NAMES.iter().position(|known| *known == name);
        let value = position.and_then(|position| values[position]);
        let value = value.with_context(|| format!("the driver's file has no function {name}"))?;
        Ok(std::ptr::with_exposed_provenance_mut(usize::try_from(mapped.base + value)?))
    })
}

/// A loaded object.
struct Mapped {
    /// What is added to each address in its file.
    base: u64,
    path: CString,
}

/// The loaded object whose file is the driver, by glibc's list.
fn mapped_driver() -> Option<Mapped> {
    unsafe extern "C" fn visit(
        object: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: glibc passes a valid object with a NUL-terminated name, and `found` as it was given below.
        let (object, found) = unsafe { (&*object, &mut *found.cast::<Option<Mapped>>()) };
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(object.dlpi_name) };
        let file = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if file.starts_with(b"libcuda.so") {
            *found = Some(Mapped { base: object.dlpi_addr, path: name.to_owned() });
        }
        libc::c_int::from(found.is_some())
    }
    let mut found: Option<Mapped> = None;
    // SAFETY: `visit` keeps to the callback's contract and does not outlive the call, as `found` does not.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

/// The values of `names` in the dynamic symbol table of the ELF file at `path`. The file is read in parts:
/// NVIDIA's has 90 MB.
fn symbol_values(path: &CStr, names: &[&str]) -> Result<Vec<Option<u64>>> {
    let file = File::open(Path::new(path.to_str()?))?;
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<Endianness, _>::parse(&cache)?;
    let mut values = vec![None; names.len()];
    for symbol in elf.dynamic_symbols().filter(ObjectSymbol::is_definition) {
        let is_function =
            matches!(symbol.flags(), SymbolFlags::Elf { st_info, .. } if st_info & 0xf == STT_FUNC);
        let name = symbol.name()?;
        if let Some(position) = names.iter().position(|known| is_function && *known == name) {
            values[position] = Some(symbol.address());
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_defines_is_found_and_what_it_does_not_is_not() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc =
            maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|p| p.contains("libc")));
        let path = CString::new(libc.unwrap()).unwrap();
        let values = symbol_values(&path, Functions::NAMES).unwrap();
        assert_eq!(values.len(), Functions::NAMES.len());
        assert!(values.iter().all(Option::is_none));
        assert!(symbol_values(c"/no/such/file", Functions::NAMES).is_err());
    }
}
