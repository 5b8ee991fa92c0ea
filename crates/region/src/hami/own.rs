//! Where cuota's own files of a container lie.
//!
//! Not in the folder of the monitor's file, if it can be helped: Volcano's monitor, and HAMi's up to 2.9.0, take no folder with more than
//! two names in it (`loadCache`), and it is on the node's disk, while every launch writes to the books. The container's `/dev/shm` is
//! memory, and the container's or its pod's alone. The folder there is named by what the monitor's file lies in, device and inode, and by
//! its name: so all processes of a container find it, and so does who looks from the node; two containers of a pod, which share
//! `/dev/shm`, and may even have the same paths, have two. It begins with a dot, since there are programs that begin with `rm /dev/shm/*`.
//!
//! The file that nobody named lies in the container's own `/tmp`, and so do its books (`DEFAULT_FILE`): there it is another one after each
//! restart of the container, and each would leave its books in the memory of the pod, which stays.

use super::{DEFAULT_FILE, DIRECTORY_SUFFIX};
use crate::header::Unusable;
use crate::member::Member;
use crate::name::TenantName;
use crate::path::{Directory, Path, decimal};
use crate::sys::{self, Errno};

/// The number of places where the files may lie.
pub const PLACES: usize = 3;

/// Where the files of a container may lie: in memory, on the container's disk (of the file that nobody named the other way round), beside the
/// monitor's file.
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
        let folder = Path::open_joined(sys::HERE, &[folder, b"."], libc::O_PATH | libc::O_DIRECTORY)?;
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
        let [first, second]: [&[u8]; 2] = [b"/dev/shm/.cuota-hami-", b"/tmp/.cuota-hami-"];
        let is_memory = (number == 0) != (self.file == DEFAULT_FILE);
        Path::of(&match number {
            0 | 1 => [if is_memory { first } else { second }, &self.key[..]],
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
                    true => directory.look_for(name) != Err(Errno(libc::ENOENT)),
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
        // Nobody may rename or remove another user's.
        let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode(home.clone()), mode(home.join("tenant"))], [0o1777; 2]);
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
    fn a_link_in_the_place_of_one_of_the_folders_leads_nowhere() {
        for name in ["home", "home/tenant"] {
            let folder = tempfile::tempdir().unwrap();
            let (home, other) = (folder.path().join("home"), folder.path().join("other"));
            std::fs::create_dir_all(other.join("tenant")).unwrap();
            if name != "home" {
                std::fs::create_dir(&home).unwrap();
            }
            std::os::unix::fs::symlink(&other, folder.path().join(name)).unwrap();
            let directory = Directory::of_everybody(Path::of(&[home.as_os_str().as_bytes()]).unwrap());
            assert!(directory.make().is_err(), "{name}");
            // It is there, and cannot be used: nor are books made elsewhere.
            assert_eq!(directory.look_for(&TenantName::DEFAULT), Err(Errno(libc::ENOTDIR)), "{name}");
            let refused = Member::join(&directory, &TenantName::DEFAULT).err();
            assert_eq!(refused, Some(Unusable::System(Errno(libc::ENOTDIR))), "{name}");
            assert_eq!(other.read_dir().unwrap().count(), 1, "{name}");
            assert_eq!(other.join("tenant").read_dir().unwrap().count(), 0, "{name}");
        }
    }

    #[test]
    fn file_that_one_who_was_killed_has_left_to_itself_is_everybodys_again_but_no_second_name_of_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::of_everybody(Path::of(&[folder.path().as_os_str().as_bytes()]).unwrap());
        directory.make().unwrap();
        let live = folder.path().join("tenant/default.v1.live");
        let mode = || live.metadata().unwrap().permissions().mode() & 0o777;
        std::fs::write(&live, "").unwrap();
        std::fs::set_permissions(&live, std::fs::Permissions::from_mode(0o600)).unwrap();
        let secret = folder.path().join("secret");
        std::fs::hard_link(&live, &secret).unwrap();
        let _ = Member::join(&directory, &TenantName::DEFAULT).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::remove_file(&secret).unwrap();
        let _ = Member::join(&directory, &TenantName::DEFAULT).unwrap();
        assert_eq!(mode(), 0o666);
    }

    #[test]
    fn books_of_a_file_that_nobody_named_go_with_the_container() {
        let places = Places::of(DEFAULT_FILE).unwrap();
        let [first, second] = [0, 1].map(|number| text(&places.at(number).unwrap()));
        assert!(first.starts_with("/tmp") && second.starts_with("/dev/shm"), "{first:?}, {second:?}");
    }
}
