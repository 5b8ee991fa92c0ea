//! The monitor's file of a process that has lost its environment: by `env -i`, `su -`, a login by ssh, cron.
//!
//! HAMi, Volcano and KAI mount the library into a container together with the folder that the file is to be in. So a library that has
//! their name looks there: beside itself (HAMi), in `claims/<claim>/` beside itself (HAMi's DRA driver), in `/tmp/vgpu` (Volcano), and
//! for the file that everybody has to whom nobody named one (KAI).

use super::variables::Variables;
use super::{DEFAULT_FILE, LIBRARY, file};
use crate::path::Path;
use crate::sys;

/// What the monitor's files end in.
const SUFFIX: &[u8] = b".cache";

/// A folder's entry as the kernel gives it (`struct linux_dirent64`): the entry's length in bytes is at this offset, the name ends with
/// NUL.
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;

/// Notes in `variables` the file of the container that the library at `library` was mounted into, if there is one, and the library has
/// HAMi's name.
pub fn note_file_beside(library: &[u8], variables: &mut Variables) {
    let Some(folder) = library.strip_suffix(LIBRARY) else { return };
    if !(note_first_in(folder, b"", false, variables)
        || note_first_in(folder, b"/claims", true, variables)
        || note_first_in(b"/tmp/vgpu", b"", false, variables))
        && variables.path().is_none()
        && file::is_there(DEFAULT_FILE)
    {
        variables.note_path(DEFAULT_FILE);
    }
}

/// Notes the first file of that kind in the folder `above` + `name`, or in the folders in it, that can be used; else one that cannot:
/// that this is a container of HAMi's it says all the same. `false`: there is none that can be used.
fn note_first_in(above: &[u8], name: &[u8], is_deep: bool, variables: &mut Variables) -> bool {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let Ok(listed) = Path::open_joined(sys::HERE, &[above, name], flags) else { return false };
    let mut buffer = [0; 1024];
    while let Ok(bytes @ 1..) = sys::read_entries(&listed, &mut buffer) {
        let mut rest = buffer.get(..bytes).unwrap_or(&[]);
        while let Some((entry, after)) = split_entry(rest) {
            rest = after;
            let is_it = entry.ends_with(SUFFIX);
            if !is_it && !is_deep || entry.starts_with(b".") {
                continue;
            }
            let Ok(inside) = Path::of(&[above, name, b"/", entry]) else { continue };
            if is_it {
                variables.note_path(inside.as_bytes());
                if file::can_be_used(inside.as_bytes()) {
                    return true;
                }
            } else if note_first_in(inside.as_bytes(), b"", false, variables) {
                return true;
            }
        }
    }
    false
}

/// The first entry's name, and the entries after it.
fn split_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = entries.get(LENGTH_AT..)?.first_chunk()?;
    let (entry, after) = entries.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((entry.get(NAME_AT..)?.split(|byte| *byte == 0).next()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    fn found(folder: &std::path::Path, library: &str) -> Option<String> {
        let mut variables = Variables::none();
        note_file_beside(folder.join(library).as_os_str().as_bytes(), &mut variables);
        variables.path().map(|path| String::from_utf8(path.to_vec()).unwrap())
    }

    #[test]
    fn file_lies_beside_the_library_or_in_a_claims_folder() {
        let dir = tempfile::tempdir().unwrap();
        let claim = dir.path().join("claims/5-7");
        fs::create_dir_all(&claim).unwrap();
        // So many that the kernel needs several answers.
        for number in 0..200 {
            fs::write(dir.path().join(format!("a-name-that-is-not-short-{number}")), "").unwrap();
        }
        for folder in [&claim, dir.path()] {
            let file = folder.join("5f0c.cache").display().to_string();
            fs::File::create(&file).unwrap().set_len(super::super::layout::BYTES as u64).unwrap();
            assert_eq!(found(dir.path(), "libvgpu.so"), Some(file));
        }
    }

    #[test]
    fn file_that_can_be_used_goes_before_others_of_its_kind_and_those_before_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(file("0.cache")).unwrap();
        assert_eq!(found(dir.path(), "libvgpu.so"), Some(file("0.cache")));
        for name in ["1.cache", "2.cache", "3.cache", "4.cache"] {
            fs::write(file(name), "short").unwrap();
        }
        let whole = fs::File::create(file("x.cache")).unwrap();
        whole.set_len(super::super::layout::BYTES as u64).unwrap();
        assert_eq!(found(dir.path(), "libvgpu.so"), Some(file("x.cache")));
    }

    #[test]
    fn library_of_another_name_looks_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.cache"), "").unwrap();
        for name in ["libcuota.so", "libvgpu.so.1", "xlibvgpu.so"] {
            assert_eq!(found(dir.path(), name), None);
        }
    }

    #[test]
    fn folder_of_something_else_has_no_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("containers")).unwrap();
        fs::create_dir(dir.path().join("containers/pod")).unwrap();
        fs::write(dir.path().join("containers/pod/x.cache"), "").unwrap();
        let none = &mut Variables::none();
        assert!(!note_first_in(dir.path().as_os_str().as_bytes(), b"", false, none), "another container's");
        assert!(!note_first_in(b"/no/such/folder", b"", true, none) && !none.are_there());
    }
}
