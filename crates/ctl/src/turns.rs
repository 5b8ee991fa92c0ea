//! Turns on a GPU, as its arena shows them to who only looks.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cuota_region::arena::Sight;
use cuota_region::member::identity_of;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::seat::{AWAY_NS, OUTSIDERS_NS};
use cuota_region::sys;

use crate::home::Home;

/// A GPU's arena at one time.
pub(crate) struct Turns {
    pub(crate) sight: Sight,
    now_ns: u64,
}

impl Turns {
    /// Those of a file. `None`: it is none of ours.
    pub(crate) fn in_file(path: &Path) -> Option<Self> {
        let sight = Sight::of(&std::fs::read(path).ok()?)?;
        let now_ns = sys::monotonic_ns().saturating_add_signed(-sys::clock_ahead_ns());
        Some(Self { sight, now_ns })
    }

    /// Those of a GPU.
    pub(crate) fn on(home: &Home, gpu: GpuId) -> Option<Self> {
        let path = home.files().arena(gpu).ok()?;
        Self::in_file(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))
    }

    /// Whether somebody has just seen a process that takes none, or MPS.
    pub(crate) fn are_off(&self) -> bool {
        self.sight.outsiders_ns != 0 && self.now_ns.abs_diff(self.sight.outsiders_ns) < OUTSIDERS_NS
    }

    /// Tenants that were here within the last seconds.
    pub(crate) fn here(&self) -> usize {
        let is_here = |seen_ns: u64| self.now_ns.abs_diff(seen_ns) <= AWAY_NS;
        self.sight.seats.iter().filter(|seat| seat.tenant != 0 && is_here(seat.seen_ns)).count()
    }

    /// How a tenant stands, and how long it has had the turn in all, ns. `None`: it has no seat.
    pub(crate) fn of(&self, home: &Home, tenant: &TenantName) -> Option<(&'static str, u64)> {
        let live = home.files().live(tenant).ok()?;
        let about = std::fs::metadata(Path::new(std::ffi::OsStr::from_bytes(live.as_bytes()))).ok()?;
        let me = identity_of(about.dev(), about.ino());
        let seat = self.sight.seats.iter().find(|seat| seat.tenant == me)?;
        let standing = match (self.here(), self.are_off()) {
            (0 | 1, _) => "alone",
            (_, true) => "off",
            (_, false) => "taken",
        };
        Some((standing, seat.held_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_governor::entitlement::Entitlement;
    use cuota_region::arena::Arena;
    use cuota_region::member::Member;

    #[test]
    fn who_only_looks_sees_who_takes_turns_and_that_a_stranger_ends_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        home.operate().unwrap();
        let gpu = GpuId::from_words([3, 4]);
        assert!(Turns::on(&home, gpu).is_none());
        let names = [b"a", b"b"].map(|name| TenantName::parse(name).unwrap());
        let members =
            names.map(|name| Box::leak(Box::new(Member::join(home.files(), &name).unwrap())).identity());
        let arena = Arena::open_or_create(home.files(), gpu, 0o600).unwrap();
        let now_ns = arena.common_ns(sys::monotonic_ns());
        let first = arena.seat(members[0], Entitlement::USUAL, now_ns).unwrap();
        // A turn begins in steps of 8 us.
        let standing = |number: usize| {
            let (standing, held_ns) = Turns::on(&home, gpu)?.of(&home, &names[number])?;
            Some((standing, held_ns / 1_000_000))
        };
        assert_eq!((standing(0), standing(1)), (Some(("alone", 0)), None));
        arena.seat(members[1], Entitlement::USUAL, now_ns).unwrap();
        assert_eq!(standing(1), Some(("taken", 0)));
        let _ = first.admit(now_ns, now_ns);
        first.release(now_ns + 5_000_000, false);
        assert_eq!(standing(0), Some(("taken", 5)));
        first.note_outsiders(now_ns);
        assert_eq!(standing(0), Some(("off", 5)));
    }
}
