//! What the tests of this crate share.

use std::os::unix::ffi::OsStrExt;

use crate::death::HOLD_NS;
use crate::live::Live;
use crate::member::Member;
use crate::name::TenantName;
use crate::path::Directory;
use crate::tenant::Tenant;

pub(crate) struct Bench {
    _dir: tempfile::TempDir,
    pub(crate) directory: Directory,
    pub(crate) name: TenantName,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tenant")).unwrap();
        let directory = Directory::at(dir.path().as_os_str().as_bytes()).unwrap();
        Bench { _dir: dir, directory, name: TenantName::parse(b"bench").unwrap() }
    }

    pub(crate) fn tenant(&self) -> Tenant {
        Tenant::open_or_create(&self.directory, &self.name).unwrap()
    }

    /// A member at `place`: the place's lock is taken for granted, as a process's own locks never collide. Whoever lived there is
    /// taken for long dead.
    pub(crate) fn member_at(&self, tenant: Tenant, place: usize) -> &'static Member {
        let settle = |now_ns| Member::settle(tenant, place, Live::NONE, now_ns);
        Box::leak(Box::new(settle(0).or_else(|| settle(HOLD_NS)).unwrap()))
    }
}
