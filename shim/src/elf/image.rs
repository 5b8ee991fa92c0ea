//! One loaded object: its dynamic section and its symbol table.

use core::ffi::{CStr, c_char, c_void};

use super::hash::Name;
use crate::arch;

/// `Elf64_Dyn`.
#[repr(C)]
pub(crate) struct Dyn {
    tag: i64,
    value: usize,
}

/// `Elf64_Sym`.
#[repr(C)]
struct Sym {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

const DT_NULL: i64 = 0;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_STRSZ: i64 = 10;
const DT_SONAME: i64 = 14;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;

const STT_FUNC: u8 = 2;
const VERSYM_HIDDEN: u16 = 0x8000;

/// No real object has more entries; ELF tables are trusted, but no loop of ours is without end.
const MOST_DYNAMIC_ENTRIES: usize = 1024;
const MOST_CHAIN_LINKS: usize = 1 << 16;

/// The tables of a loaded object. Valid while the object stays loaded.
pub(crate) struct Image {
    base: usize,
    strings: *const c_char,
    strings_bytes: usize,
    symbols: *const Sym,
    gnu_hash: *const u32,
    sysv_hash: *const u32,
    versions: *const u16,
    soname: usize,
}

impl Image {
    /// Reads the dynamic section of the object that is loaded at `base`; `None` if it has no symbol table.
    ///
    /// # Safety
    /// `dynamic` is null or the dynamic section of an object that stays loaded while the image is in use.
    pub(crate) unsafe fn new(base: usize, dynamic: *const Dyn) -> Option<Self> {
        if dynamic.is_null() {
            return None;
        }
        let mut strings = 0;
        let mut strings_bytes = 0;
        let mut symbols = 0;
        let mut gnu_hash = 0;
        let mut sysv_hash = 0;
        let mut versions = 0;
        let mut soname = usize::MAX;
        for index in 0..MOST_DYNAMIC_ENTRIES {
            // SAFETY: the section ends with DT_NULL, which ends the loop; the caller keeps it mapped.
            let &Dyn { tag, value } = unsafe { &*dynamic.add(index) };
            let address = relocated(base, value);
            match tag {
                DT_NULL => break,
                DT_STRTAB => strings = address,
                DT_STRSZ => strings_bytes = value,
                DT_SYMTAB => symbols = address,
                DT_GNU_HASH => gnu_hash = address,
                DT_HASH => sysv_hash = address,
                DT_VERSYM => versions = address,
                DT_SONAME => soname = value,
                _ => {}
            }
        }
        (strings != 0 && symbols != 0).then_some(Self {
            base,
            strings: strings as *const c_char,
            strings_bytes,
            symbols: symbols as *const Sym,
            gnu_hash: gnu_hash as *const u32,
            sysv_hash: sysv_hash as *const u32,
            versions: versions as *const u16,
            soname,
        })
    }

    /// This library's own.
    pub(crate) fn own() -> Option<Self> {
        let (start, dynamic) = arch::own_places();
        // SAFETY: our own, which stay as long as this code does.
        unsafe { Image::new(start, dynamic.cast()) }
    }

    /// The name and the address of the function that stands `nth` among those that the object defines, counted from 0. Only of an object
    /// with a GNU hash table, and that defines so many.
    pub(crate) fn nth_function(&self, nth: usize) -> Option<(&CStr, *const c_void)> {
        if self.gnu_hash.is_null() {
            return None;
        }
        // SAFETY: DT_GNU_HASH says with which symbol those begin that are defined; the caller says that there are so many.
        let symbol = unsafe { &*self.symbols.add(*self.gnu_hash.add(1) as usize + nth) };
        // SAFETY: the offset is the linker's, and a string table ends with a NUL.
        let name = unsafe { CStr::from_ptr(self.strings.add(symbol.name as usize)) };
        Some((name, self.base.wrapping_add(symbol.value) as *const c_void))
    }

    /// The object's DT_SONAME; a program has none.
    pub(crate) fn soname(&self) -> Option<&CStr> {
        // SAFETY: the offset is checked, and a string table ends with a NUL.
        (self.soname < self.strings_bytes).then(|| unsafe { CStr::from_ptr(self.strings.add(self.soname)) })
    }

    /// The address of the function `name` as this object defines it; null if it does not.
    ///
    /// Of several versions the default one, as `dlsym` has it; a hidden one only if there is no other.
    pub(crate) fn function(&self, name: Name) -> *mut c_void {
        let mut hidden = 0;
        let found = if self.gnu_hash.is_null() {
            self.walk_sysv(name, &mut hidden)
        } else {
            self.walk_gnu(name, &mut hidden)
        };
        let value = found.unwrap_or(hidden);
        if value == 0 { core::ptr::null_mut() } else { (self.base.wrapping_add(value)) as *mut c_void }
    }

    /// The value of the default version; a hidden version's goes to `hidden`.
    fn walk_gnu(&self, name: Name, hidden: &mut usize) -> Option<usize> {
        let hash = name.gnu();
        // SAFETY: DT_GNU_HASH is: bucket count, first hashed symbol, bloom words, bloom shift; then the bloom filter
        // (words of the machine's size), the buckets, and one chain word for each hashed symbol. The object is loaded.
        unsafe {
            let buckets_count = *self.gnu_hash;
            let first = *self.gnu_hash.add(1);
            let bloom_words = *self.gnu_hash.add(2);
            if buckets_count == 0 {
                return None;
            }
            let buckets = self.gnu_hash.add(4 + 2 * bloom_words as usize);
            let chains = buckets.add(buckets_count as usize);
            let start = *buckets.add((hash % buckets_count) as usize);
            if start < first {
                return None;
            }
            for link in 0..MOST_CHAIN_LINKS {
                let index = start as usize + link;
                let chained = *chains.add(index - first as usize);
                if chained | 1 == hash | 1
                    && let Some(value) = self.matching(index, name, hidden)
                {
                    return Some(value);
                }
                if chained & 1 == 1 {
                    break;
                }
            }
        }
        None
    }

    /// The same for an object that has no GNU hash table (`--hash-style=sysv`): symbol by symbol, as many as its DT_HASH has chains.
    fn walk_sysv(&self, name: Name, hidden: &mut usize) -> Option<usize> {
        if self.sysv_hash.is_null() {
            return None;
        }
        // SAFETY: DT_HASH is: bucket count, chain count, buckets, chains (one for each symbol). The object is loaded.
        unsafe {
            let symbols = *self.sysv_hash.add(1);
            (1..symbols as usize).find_map(|index| self.matching(index, name, hidden))
        }
    }

    /// The value of symbol `index` if it is the defined function `name` in its default version.
    ///
    /// # Safety
    /// `index` comes from the object's own hash table.
    unsafe fn matching(&self, index: usize, name: Name, hidden: &mut usize) -> Option<usize> {
        // SAFETY: a hash table names only symbols that exist; each symbol has its word in DT_VERSYM.
        let (symbol, version) = unsafe {
            let version = if self.versions.is_null() { 1 } else { *self.versions.add(index) };
            (&*self.symbols.add(index), version)
        };
        let defined = symbol.section != 0 && symbol.value != 0 && symbol.info & 0xf == STT_FUNC;
        let local = version & !VERSYM_HIDDEN == 0;
        if !defined || local || symbol.name as usize >= self.strings_bytes {
            return None;
        }
        // SAFETY: the offset is checked, and a string table ends with a NUL.
        let found = unsafe { CStr::from_ptr(self.strings.add(symbol.name as usize)) };
        if !name.is(found.to_bytes()) {
            return None;
        }
        if version & VERSYM_HIDDEN != 0 {
            *hidden = symbol.value;
            return None;
        }
        Some(symbol.value)
    }
}

/// The address that a DT_* pointer means. glibc relocates them in place on x86-64 and aarch64, except in objects whose
/// dynamic section is read-only (the vDSO), where they are offsets.
fn relocated(base: usize, value: usize) -> usize {
    if value < base { base + value } else { value }
}

#[cfg(test)]
mod tests {
    use core::ffi::c_void;

    use crate::elf::hash::Name;
    use crate::elf::{Image, LinkMap};

    fn libc_image() -> Image {
        // SAFETY: libc is never unloaded.
        LinkMap::of_start(c"libc.so.6").and_then(|libc| unsafe { libc.image() }).expect("libc is loaded")
    }

    #[test]
    fn function_is_where_the_loader_finds_it() {
        let libc = libc_image();
        assert_eq!(libc.soname(), Some(c"libc.so.6"));
        assert_eq!(libc.function(Name::of(b"getpid")), libc::getpid as *mut c_void);
        assert!(libc.function(Name::of(b"no_such_function")).is_null());
    }

    #[test]
    fn default_version_of_a_function_is_preferred() {
        // glibc keeps an older pthread_cond_wait for programs of 2002, at another address, on x86-64.
        let found = libc_image().function(Name::of(b"pthread_cond_wait"));
        assert_eq!(found, libc::pthread_cond_wait as *mut c_void);
    }

    #[test]
    fn both_kinds_of_hash_table_lead_to_the_same_function() {
        let libc = libc_image();
        for name in ["getpid", "dlsym", "pthread_cond_wait"].map(|name| Name::of(name.as_bytes())) {
            let mut hidden = 0;
            let by_sysv = libc.walk_sysv(name, &mut hidden);
            assert!(libc.sysv_hash.is_null() || by_sysv == libc.walk_gnu(name, &mut hidden), "{name:?}");
        }
    }

    #[test]
    fn data_is_no_function() {
        assert!(libc_image().function(Name::of(b"environ")).is_null());
    }
}
