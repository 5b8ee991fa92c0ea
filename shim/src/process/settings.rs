//! What the environment said when this library was loaded.
//!
//! The values are copied once, at load, so that a later `setenv`, or a program that writes over its arguments and
//! environment to change its title, moves no limit.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU32, Ordering};

use cuota_region::hami::file::can_be_used;
use cuota_region::hami::search::note_file_beside;
use cuota_region::hami::variables::Variables;
use cuota_region::name::TenantName;
use cuota_region::path::{ASSIGNED, Directory, open_operators};
use cuota_region::sys;
use cuota_region::{
    DEFAULT_DIR, DEFAULT_PATH, DIR_VARIABLE, HELPER_VARIABLE, TENANT_VARIABLE, TURNS_VARIABLE,
};

use crate::elf::link_map::LinkMap;

/// A value of an environment variable, copied.
struct Value<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Value<N> {
    const fn none() -> Self {
        Value { bytes: [0; N], len: 0 }
    }

    /// Copies the value of an entry `NAME=value`, unless an earlier one was copied; `false`: the entry has another name.
    fn take(&mut self, entry: &[u8], name: &str) -> bool {
        take(&mut self.bytes, &mut self.len, entry, name)
    }

    fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len).filter(|value| !value.is_empty())
    }
}

struct Values {
    directory: Value<512>,
    tenant: Value<64>,
    helper: Value<8>,
    turns: Value<8>,
    /// What HAMi and FCSP say to a container.
    variables: Variables,
}

struct Cell {
    state: AtomicU32,
    values: UnsafeCell<Values>,
}

// SAFETY: the values are written by the one thread that wins `state` from EMPTY, and read only once it is FULL.
unsafe impl Sync for Cell {}

const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const FULL: u32 = 2;

static CELL: Cell = Cell {
    state: AtomicU32::new(EMPTY),
    values: UnsafeCell::new(Values {
        directory: Value::none(),
        tenant: Value::none(),
        helper: Value::none(),
        turns: Value::none(),
        variables: Variables::none(),
    }),
};

/// The settings of this process.
#[derive(Clone, Copy)]
pub(crate) struct Settings(Option<&'static Values>);

unsafe extern "C" {
    /// libc's pointer to the environment: set before any constructor runs.
    static environ: *const *const c_char;
}

impl Settings {
    /// The settings; the first call copies them. Called when the library is loaded.
    pub(crate) fn get() -> Self {
        if CELL.state.compare_exchange(EMPTY, WRITING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: this thread won WRITING, and is the only one that looks at the values.
            let values = unsafe { &mut *CELL.values.get() };
            // SAFETY: `environ` is libc's, and at load time nobody changes it.
            unsafe { copy_environment(environ, values) };
            take_assigned(values);
            // With more rights than its caller's it would make a file wherever that one says; one that is there is another matter.
            if let Some(path) = values.variables.path()
                && !sys::has_its_callers_rights()
                && !can_be_used(path)
            {
                values.variables.forget_path();
            }
            if values.variables.path().is_none() {
                note_file_beside(own_path(), &mut values.variables);
            }
            CELL.state.store(FULL, Ordering::Release);
        }
        // WRITING: a second thread before the first constructor is done. It gets no settings, so nothing is granted.
        let full = CELL.state.load(Ordering::Acquire) == FULL;
        // SAFETY: FULL, so nobody writes any more.
        Settings(full.then(|| unsafe { &*CELL.values.get() }))
    }

    /// The directory of the region, and whether there must be a policy in it: because the environment names the directory or
    /// the tenant, or because the operator has put one there. `None` for one that cannot be used.
    ///
    /// A policy in the default directory that this user cannot change is the operator's last word: `CUOTA_DIR` must not
    /// lead around it.
    pub(crate) fn directory(self) -> Option<(Directory, bool)> {
        let values = self.0?;
        let default = Directory::at(DEFAULT_DIR.as_bytes()).ok()?;
        let named = match values.directory.get() {
            Some(_) if default.is_protected() => return Some((default, true)),
            Some(named) => Directory::at(named).ok()?,
            None => return Some((default, values.tenant.get().is_some())),
        };
        Some((named, true))
    }

    /// What HAMi and FCSP say to a container, where this is one of theirs.
    pub(crate) fn variables(self) -> Option<&'static Variables> {
        self.0.map(|values| &values.variables).filter(|variables| variables.are_there())
    }

    /// The numbers of HAMi's and FCSP's variables that were found, wherever this is.
    pub(crate) fn found(self) -> u32 {
        self.0.map_or(0, |values| values.variables.found())
    }

    /// Whether the limiter is to have no thread. Tests show that little rests on it.
    pub(crate) fn wants_no_helper(self) -> bool {
        self.0.and_then(|values| values.helper.get()) == Some(b"off")
    }

    /// Whether it takes turns with other tenants, who then can end it by cutting the file short that they share: as the variable says, else `usually`.
    pub(crate) fn takes_turns(self, usually: bool) -> bool {
        self.0.and_then(|values| values.turns.get()).map_or(usually, |value| value == b"on")
    }

    /// The tenant that this process belongs to. A name that is none belongs to the default tenant: it must not be a
    /// way out.
    pub(crate) fn tenant(self) -> TenantName {
        let name = self.0.and_then(|values| values.tenant.get());
        name.and_then(|name| TenantName::parse(name).ok()).unwrap_or(TenantName::DEFAULT)
    }
}

/// Where this library was loaded from, if at the process's start; else nothing.
pub(super) fn own_path() -> &'static [u8] {
    LinkMap::of_start(c"libcuota.so").map_or(b"", LinkMap::path)
}

/// In a container the operator has said who the tenant is, and that outlives an emptied environment. A neighbour that shares its
/// `/dev/shm` must not.
fn take_assigned(values: &mut Values) {
    if let Some(file) = open_operators(DEFAULT_PATH, ASSIGNED) {
        values.tenant.len = sys::read(&file, &mut values.tenant.bytes).unwrap_or(0);
    }
}

/// Copies our variables out of an environment, the first of each name.
///
/// # Safety
/// `entry` is null or an array of C strings that ends with null, unchanged meanwhile.
unsafe fn copy_environment(mut entry: *const *const c_char, values: &mut Values) {
    // SAFETY: the caller's contract, for each step through the array.
    while let Some(text) = unsafe { entry.as_ref() }.filter(|text| !text.is_null()) {
        // SAFETY: the array's entries are C strings.
        let text = unsafe { CStr::from_ptr(*text) }.to_bytes();
        // Nearly every entry differs in its first bytes: this is all that a process without CUDA pays.
        if text.starts_with(b"CUOTA_") {
            let _ = values.directory.take(text, DIR_VARIABLE)
                || values.tenant.take(text, TENANT_VARIABLE)
                || values.helper.take(text, HELPER_VARIABLE)
                || values.turns.take(text, TURNS_VARIABLE);
        } else {
            values.variables.note(text);
        }
        // SAFETY: not yet at the null that ends the array.
        entry = unsafe { entry.add(1) };
    }
}

/// [`Value::take`], for values of every length. One that is too long fills the space, and its reader refuses it.
#[inline(never)]
fn take(to: &mut [u8], len: &mut usize, entry: &[u8], name: &str) -> bool {
    let Some(value) = entry.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) else {
        return false;
    };
    if *len == 0 {
        *len = value.len().min(to.len());
        to.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[&CStr]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let mut array: Vec<*const c_char> = entries.iter().map(|e| e.as_ptr()).collect();
        array.push(core::ptr::null());
        let mut values = Values {
            directory: Value::none(),
            tenant: Value::none(),
            helper: Value::none(),
            turns: Value::none(),
            variables: Variables::none(),
        };
        // SAFETY: a live array of C strings that ends with null.
        unsafe { copy_environment(array.as_ptr(), &mut values) };
        (values.directory.get().map(<[u8]>::to_vec), values.tenant.get().map(<[u8]>::to_vec))
    }

    #[test]
    fn our_variables_are_found_among_others_and_the_first_counts() {
        let found =
            read(&[c"PATH=/bin", c"CUOTA_DIR=/a", c"CUOTA_DIRECTORY=/x", c"CUOTA_DIR=/b", c"CUOTA_TENANT=t"]);
        assert_eq!(found, (Some(b"/a".to_vec()), Some(b"t".to_vec())));
    }

    #[test]
    fn an_empty_variable_is_none() {
        assert_eq!(read(&[c"CUOTA_DIR=", c"CUOTA_TENANT"]), (None, None));
    }
}
