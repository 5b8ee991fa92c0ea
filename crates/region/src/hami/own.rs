//! Where cuota's own files of a container lie.
//!
//! Not in the folder of the monitor's file, if it can be helped: Volcano's monitor, and HAMi's up to 2.9.0, take no folder with more than
//! two names in it (`loadCache`), and it is on the node's disk, while every launch writes to the books. The container's `/dev/shm` is
//! memory, and the container's or its pod's alone. The folder there is named by what the monitor's file lies in, device and inode, and by
//! its name: so all processes of a container find it, and so does who looks from the node; two containers of a pod, which share
//! `/dev/shm`, and may even have the same paths, have two. It begins with a dot, since there are programs that begin with `rm /dev/shm/*`.

use super::DIRECTORY_SUFFIX;
use crate::header::Unusable;
use crate::member::Member;
use crate::name::TenantName;
use crate::path::{Directory, Path, decimal};
use crate::sys::{self, Errno};

/// The number of places where the files may lie.
pub const PLACES: usize = 3;

/// Where the files of a container may lie: in memory, on the container's disk, beside the monitor's file.
pub struct Places<'a> {
    file: &'a [u8],
    key: [u8; 20],
}

impl<'a> Places<'a> {
    /// The places of the container whose monitor's file is, or is to be, at `file`.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`], and why the file's folder cannot be found.
    pub fn of(file: &'a [u8]) -> Result<Self, Unusable> {
        let name_at = file.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (folder, name) = file.split_at_checked(name_at).unwrap_or((file, b""));
        let folder = Path::of(&[folder, b"."])?;
        let folder = sys::open(folder.as_c_str(), libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let (device, inode) = sys::file_info(&folder)?.identity;
        // As FNV-1a, which multiplies after each step: neighbours' inodes differ by as little as names do.
        let step = |key: u64, next: u64| (key ^ next).wrapping_mul(0x0100_0000_01b3);
        let key = name.iter().fold(step(step(0, device), inode), |key, byte| step(key, u64::from(*byte)));
        Ok(Places { file, key: decimal(key) })
    }

    /// The place with this number, best first, below [`PLACES`].
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn at(&self, number: u32) -> Result<Path, Unusable> {
        Path::of(&match number {
            0 => [b"/dev/shm/.cuota-hami-", &self.key[..]],
            1 => [b"/tmp/.cuota-hami-", &self.key],
            _ => [self.file, DIRECTORY_SUFFIX],
        })
    }

    /// Joins the container's tenant where its files are, or else where they can be made. `None`: nowhere.
    #[must_use]
    pub fn join(&self, name: &TenantName) -> Option<Joined> {
        for is_there in [true, false] {
            for place in (0..).take(PLACES) {
                let directory = Directory::of_everybody(self.at(place).ok()?);
                let can_be_used = match is_there {
                    // Though this process may not use it, and could make its own elsewhere: two sets of books would be two quotas.
                    true => {
                        let flags = libc::O_PATH | libc::O_NOFOLLOW;
                        let found = sys::open(directory.tenant(name).ok()?.as_c_str(), flags, 0);
                        found.err() != Some(Errno(libc::ENOENT))
                    }
                    false => directory.make().is_ok(),
                };
                if can_be_used {
                    match Member::join(&directory, name) {
                        Ok(member) => return Some(Joined { member, directory, place }),
                        Err(_) if is_there => return None,
                        Err(_) => {}
                    }
                }
            }
        }
        None
    }
}

/// A member of the container's tenant.
pub struct Joined {
    /// The member.
    pub member: Member,
    /// Where its files lie.
    pub directory: Directory,
    /// The number of the place.
    pub place: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Tenant;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn text(path: &Path) -> PathBuf {
        std::ffi::OsString::from_vec(path.as_bytes().to_vec()).into()
    }

    fn places_of(file: &std::path::Path) -> [PathBuf; PLACES] {
        let places = Places::of(file.as_os_str().as_bytes()).unwrap();
        [0, 1, 2].map(|number| text(&places.at(number).unwrap()))
    }

    #[test]
    fn a_container_has_one_place_however_its_file_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let [first, second] =
            [folder.path().join("x.cache"), link.join("x.cache")].map(|file| places_of(&file));
        assert_eq!(first[..2], second[..2]);
        assert_eq!(first[2], folder.path().join("x.cache.cuota"));
        assert!(first[0].starts_with("/dev/shm") && first[1].starts_with("/tmp"));
    }

    #[test]
    fn no_two_containers_have_one_place() {
        // In a row, so that their inodes differ by little.
        let root = tempfile::tempdir().unwrap();
        let mut places = std::collections::HashSet::new();
        for folder in (0..64).map(|number| root.path().join(number.to_string())) {
            std::fs::create_dir(&folder).unwrap();
            for name in ["x.cache", "y.cache", "z.cache", "cudevshr.cache"] {
                assert!(places.insert(places_of(&folder.join(name))[0].clone()));
            }
        }
    }

    #[test]
    fn a_file_in_no_folder_has_no_place() {
        assert!(Places::of(b"/no/such/folder/x.cache").is_err());
        assert!(Places::of(b"x.cache").is_ok(), "in the working directory");
    }

    #[test]
    fn the_files_are_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let directory = Directory::of_everybody(Path::of(&[home.as_os_str().as_bytes()]).unwrap());
        directory.make().unwrap();
        directory.make().unwrap();
        let _ = Tenant::open_or_create(&directory, &TenantName::DEFAULT).unwrap();
        let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(home.clone()), mode(home.join("tenant"))], [0o777; 2]);
        assert_eq!(mode(home.join("tenant/default.v1")), 0o666);
    }

    #[test]
    fn a_link_in_the_place_of_one_of_the_files_leads_nowhere() {
        for name in ["default.v1", "default.v1.live"] {
            let folder = tempfile::tempdir().unwrap();
            let directory =
                Directory::of_everybody(Path::of(&[folder.path().as_os_str().as_bytes()]).unwrap());
            directory.make().unwrap();
            let secret = folder.path().join("secret");
            std::fs::write(&secret, "secret").unwrap();
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::symlink(&secret, folder.path().join("tenant").join(name)).unwrap();
            let refused = Member::join(&directory, &TenantName::DEFAULT).err();
            assert_eq!(refused, Some(Unusable::System(sys::Errno(libc::ELOOP))), "{name}");
            assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_files_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (home, other) = (folder.path().join("home"), folder.path().join("other"));
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &home).unwrap();
        let directory = Directory::of_everybody(Path::of(&[home.as_os_str().as_bytes()]).unwrap());
        assert!(directory.make().is_err());
        assert_eq!(other.read_dir().unwrap().count(), 0);
    }
}
