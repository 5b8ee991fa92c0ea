//! How a process takes a place in its tenant's file, and how its death is seen.
//!
//! A process proves that it lives by a POSIX record lock on one byte of the `live` file: the kernel drops the lock
//! when the process ends, however it ends, 0.2 ms after a SIGKILL. Whoever gets the lock of a place may use the place,
//! as soon as the books that a dead process left there are closed ([`crate::death`]).

use crate::death::{self, HOLD_NS, SWEEP_INTERVAL_NS};
use crate::header::Unusable;
use crate::ledger::root;
use crate::live::Live;
use crate::name::TenantName;
use crate::path::Directory;
use crate::sync::{AtomicU64, Ordering};
use crate::sys;
use crate::tenant::{GPUS, GpuIndex, PROCESSES, Place, Tenant};
use crate::word;

/// The bit of a life that says that it has not ended.
pub(crate) const ALIVE: u64 = 1;

/// The program has closed the descriptor of the live file, so this process sees no locks, and has lost its own; or somebody has
/// removed the file, and its locks say nothing to those who came later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blind;

/// A process's place in its tenant's file.
pub struct Member {
    pub(crate) tenant: Tenant,
    pub(crate) place: usize,
    pub(crate) life: u64,
    /// What its reservations are known by: they are those of the places whose books it took over, too.
    pub(crate) root: u64,
    /// Where the place is that this process took when it lost this one; 0: it has not lost it.
    pub(crate) next: AtomicU64,
    live: Live,
}

/// What [`Member::identity`] is of a tenant whose live file has this device and inode.
#[cfg(not(loom))]
#[must_use]
pub fn identity_of(device: u64, inode: u64) -> u64 {
    crate::live::number_of((device, inode)).max(1)
}

impl Member {
    /// Takes a place for this process in the tenant's file, which is made where it does not exist.
    ///
    /// # Errors
    /// Why the files cannot be used, or [`Unusable::Full`].
    pub fn join(directory: &Directory, name: &TenantName) -> Result<Self, Unusable> {
        Member::join_after(directory, name, None)
    }

    /// Notes which process it is: its other places hold nothing.
    pub(crate) fn begin(&self) {
        let started = sys::start_of(sys::process_id()).unwrap_or(0);
        if let Some(place) = self.own_place() {
            place.started.store(started, Ordering::Release);
        }
    }

    /// What stands in the tenant's file at the number of its place, whosoever that is by now.
    pub(crate) fn entry(&self) -> &'static Place {
        self.tenant.place(self.place)
    }

    /// [`Member::join`], or where this process has `lost` a place, [`Member::join_again`].
    #[inline(never)]
    pub(crate) fn join_after(
        directory: &Directory,
        name: &TenantName,
        lost: Option<&Member>,
    ) -> Result<Self, Unusable> {
        let live = Live::open(directory, name)?;
        let tenant = Tenant::open_or_create(directory, name)?;
        // Whoever has locks on another, which somebody has removed, joins again when it sees this.
        tenant.0.summary.live.store(live.identity(), Ordering::SeqCst);
        let until = sys::monotonic_ns().saturating_add(HOLD_NS);
        loop {
            let now = sys::monotonic_ns();
            // Whoever sums looks there last.
            let first = lost.map_or(0, |lost| lost.place + 1);
            if let Some(mut member) = Member::take_a_place(tenant, live, now, first)? {
                match lost {
                    Some(lost) => member.follow(lost),
                    None => member.begin(),
                }
                return Ok(member);
            }
            // All that are free are held for the dead.
            if now >= until {
                return Err(Unusable::Full);
            }
            sys::sleep_ns(SWEEP_INTERVAL_NS);
        }
    }

    /// Takes the first place that is free from place `first` on, or else of those before. `None`: all are taken, or held for the dead.
    pub(crate) fn take_a_place(
        tenant: Tenant,
        live: Live,
        now_ns: u64,
        first: usize,
    ) -> sys::Result<Option<Self>> {
        for place in first..first + PROCESSES {
            let place = place % PROCESSES;
            if live.try_lock(place)? {
                if let Some(member) = Member::settle(tenant, place, live, now_ns) {
                    return Ok(Some(member));
                }
                live.unlock(place);
            }
        }
        Ok(None)
    }

    /// Moves into a place whose lock this process has. `None`: what a dead process had is still booked there.
    pub(crate) fn settle(tenant: Tenant, place: usize, live: Live, now_ns: u64) -> Option<Self> {
        let entry = tenant.place(place);
        let before = entry.life.load(Ordering::Acquire);
        if before & ALIVE != 0 && !death::bury(tenant, place, entry, before, now_ns) {
            return None;
        }
        // Odd, and not the life that ended: whoever still holds that one finds itself evicted.
        let life = (before | ALIVE).wrapping_add(2);
        tenant.forget_shares(place, None);
        entry.died.store(0, Ordering::Relaxed);
        entry.pools.store(0, Ordering::Relaxed);
        entry.pid.store(sys::process_id(), Ordering::Relaxed);
        entry.pid_namespace.store(pid_namespace(), Ordering::Relaxed);
        entry.started.store(0, Ordering::Relaxed);
        entry.uid.store(sys::user_id(), Ordering::Relaxed);
        entry.joined_ns.store(sys::coarse_ns(), Ordering::Relaxed);
        for line in (0..GPUS).map(|gpu| tenant.line(gpu, place)) {
            // Not counted while it is cleared: the life that it had has ended. Swaps, for the reason that `word::begin` gives.
            line.life.swap(0, Ordering::SeqCst);
            word::begin(line, life);
            for counter in [&line.overhead, &line.refused, &line.pools] {
                counter.store(0, Ordering::Relaxed);
            }
            for counter in [&line.in_flight_ns, &line.owed_ns] {
                counter.store(0, Ordering::Relaxed);
            }
            line.life.swap(life, Ordering::SeqCst);
        }
        entry.life.store(life, Ordering::Release);
        let high = u32::try_from(place + 1).ok()?;
        tenant.0.summary.high_water.fetch_max(high, Ordering::SeqCst);
        Some(Member { tenant, place, life, root: root(place, life), next: AtomicU64::default(), live })
    }

    /// What tells its tenant from all others of the machine: which file it is. Not 0.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.live.identity().max(1)
    }

    /// The tenant's file.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The number of the place.
    #[must_use]
    pub fn place(&self) -> usize {
        self.place
    }

    /// What the tenant's process with this id has booked on `gpu`, bytes: one of this process's PID namespace, whose ids mean something
    /// here.
    #[must_use]
    pub fn booked_by(&self, gpu: GpuIndex, pid: u32) -> Option<u64> {
        let here = self.entry().pid_namespace.load(Ordering::Relaxed);
        for (number, place) in self.tenant.places() {
            let line = self.tenant.line(gpu.0, number);
            if here != 0
                && place.pid.load(Ordering::Relaxed) == pid
                && place.pid_namespace.load(Ordering::Relaxed) == here
                && line.life.load(Ordering::Acquire) & ALIVE != 0
            {
                return Some(word::booked_bytes(line));
            }
        }
        None
    }

    /// Whether this process still has its place, and the descriptor that shows others that it lives. It loses both where
    /// the program closes that descriptor: then it has to join again.
    #[must_use]
    pub fn has_its_place(&self) -> bool {
        // Found dead, because its lock is gone though the descriptor is there: its lines say so before its place does.
        self.lines().all(|line| line.life.load(Ordering::SeqCst) == self.life)
            && self.lives()
            && self.sees_the_living()
    }

    /// Whether nobody has taken this process for dead.
    pub(crate) fn lives(&self) -> bool {
        self.own_place().is_some()
    }

    /// What stands of it in the tenant's file. `None`: it was taken for dead, and another process may be there by now.
    #[inline(never)]
    pub(crate) fn own_place(&self) -> Option<&'static Place> {
        let place = self.entry();
        (place.life.load(Ordering::Acquire) == self.life).then_some(place)
    }

    /// Notes what is to be charged if this process dies now: the GPU time of its work in flight on `gpu`, ns, and what of it is not
    /// booked.
    pub fn note_in_flight(&self, gpu: GpuIndex, in_flight_ns: u64, owed_ns: u64) {
        let line = self.line(gpu.0);
        if line.life.load(Ordering::Acquire) == self.life {
            line.in_flight_ns.store(in_flight_ns, Ordering::Relaxed);
            line.owed_ns.store(owed_ns, Ordering::Relaxed);
        }
    }

    /// As [`Self::note_in_flight`], where nobody looks again before it ends, perhaps: since when that work may have been there, ns, and what
    /// of it is booked. Whoever finds the process dead knows how long it was there at most.
    pub fn note_unseen(&self, gpu: GpuIndex, since_ns: u64, booked_ns: u64) {
        self.note_in_flight(gpu, death::UNSEEN | since_ns, booked_ns);
    }

    /// Notes that others can open memory pools of this process.
    pub fn note_pool_exported(&self) {
        if let Some(place) = self.own_place() {
            place.pools.fetch_or(death::EXPORTS, Ordering::SeqCst);
        }
    }

    /// Notes that this process has opened a memory pool of another, or closed one.
    pub fn note_pool_open(&self, opened: bool) {
        let Some(place) = self.own_place() else { return };
        if opened {
            place.pools.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let mut pools = place.pools.load(Ordering::SeqCst);
        while pools & !death::EXPORTS != 0 {
            match place.pools.compare_exchange(pools, pools - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => pools = now,
            }
        }
    }

    /// Notes in a new place whether others can open memory pools of this process, and how many pools of others it has open.
    pub fn bring_pools(&self, exports: bool, open: u32) {
        if let Some(place) = self.own_place() {
            place.pools.store(u32::from(exports) << 31 | open & !death::EXPORTS, Ordering::SeqCst);
        }
    }

    /// Whether another process of the tenant lets others open its memory pools, or did until it died.
    #[must_use]
    pub fn others_export_pools(&self) -> bool {
        self.tenant.places().any(|(number, place)| {
            number != self.place
                && place.life.load(Ordering::Acquire) & ALIVE != 0
                && place.pools.load(Ordering::SeqCst) & death::EXPORTS != 0
        })
    }

    /// Whether no other process of the tenant lives, as far as its file says: what an ended one had may stay booked for some time after it was found dead.
    #[must_use]
    #[inline(never)]
    pub fn is_the_only_one(&self) -> bool {
        let is_another = |(number, place): (usize, &Place)| {
            let life = place.life.load(Ordering::Acquire);
            number != self.place && life & ALIVE != 0 && death::found_dead_ms(place, life).is_none()
        };
        !self.tenant.places().any(is_another)
    }

    /// Gives the place up, after this process has taken another: what stands here is not counted twice.
    pub fn leave(&self) {
        let (life, ended) = (&self.entry().life, self.life & !ALIVE);
        if life.compare_exchange(self.life, ended, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            death::end_lines(self.tenant, self.place, self.life);
        }
    }

    /// Whether this process sees the locks of the live file that is in force.
    pub(crate) fn sees_the_living(&self) -> bool {
        self.live.is_open() && self.tenant.0.summary.live.load(Ordering::SeqCst) == self.live.identity()
    }

    /// Whether a process other than this one lives in a place.
    pub(crate) fn is_locked_elsewhere(&self, place: usize) -> sys::Result<bool> {
        self.live.is_locked_elsewhere(place)
    }
}

/// This process's PID namespace by its inode number; 0: unknown, as without `/proc`.
pub(crate) fn pid_namespace() -> u64 {
    let namespace = sys::open(c"/proc/self/ns/pid", libc::O_RDONLY, 0);
    namespace.and_then(|fd| sys::file_info(&fd)).map_or(0, |info| info.identity.1)
}

/// Whether any process of the tenant lives, as someone sees it who is none of them: by its lock, or where its program has closed the live
/// file's descriptor, by its id and start, which say something within a PID namespace only.
///
/// # Errors
/// Why the files cannot be used.
pub fn anyone_lives(directory: &Directory, name: &TenantName) -> Result<bool, Unusable> {
    let fd = directory.live(name)?.open(libc::O_RDWR, 0)?;
    for place in 0..PROCESSES as u64 {
        if sys::byte_is_locked_elsewhere(&fd, place)? {
            return Ok(true);
        }
    }
    match Tenant::open(&directory.tenant(name)?) {
        Ok(tenant) => Ok(anyone_runs(tenant)),
        Err(Unusable::System(errno)) => Err(errno.into()),
        // Rubbish, or of another version: nobody keeps books there.
        Err(_) => Ok(false),
    }
}

/// Whether the process of any place runs, locked or not.
fn anyone_runs(tenant: Tenant) -> bool {
    let here = pid_namespace();
    let runs = |place: &Place| {
        let started = place.started.load(Ordering::Relaxed);
        place.life.load(Ordering::Acquire) & ALIVE != 0
            && started != 0
            && place.pid_namespace.load(Ordering::Relaxed) == here
            && sys::start_of(place.pid.load(Ordering::Relaxed)) == Some(started)
    };
    here != 0 && tenant.0.places.iter().take(tenant.places_in_use()).any(runs)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::ledger::Books;
    use crate::name::GpuId;
    use crate::sys::Fd;
    use crate::testing::Bench;

    const GPU: GpuId = GpuId::from_words([1, 2]);
    const MIB: u64 = 1 << 20;

    /// Forks a child that joins, books `mib` MiB and waits to be killed. Returns its id once it has booked.
    fn tenant_process(bench: &Bench, mib: u64) -> i32 {
        tenant_process_that(bench, mib, |_| {})
    }

    /// The same, of a child that does something with its end of a pipe before it says that it has booked.
    fn tenant_process_that(bench: &Bench, mib: u64, then: fn(i32)) -> i32 {
        let mut pipe = [0; 2];
        // SAFETY: fills the two descriptors of a live array.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        // SAFETY: the child calls nothing but this crate, which takes no lock and allocates nothing, and `pause`.
        match unsafe { libc::fork() } {
            0 => {
                let member = Member::join(&bench.directory, &bench.name).ok();
                let books = member.and_then(|member| {
                    let gpu = member.tenant().gpu_index(GPU)?;
                    Some(Books::of(Box::leak(Box::new(member)), gpu))
                });
                if let Some(books) = books {
                    books.book(mib * MIB);
                    then(pipe[1]);
                    let _ = sys::write_all(&Fd::from_owned(pipe[1]), b"!");
                }
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            child => {
                drop(Fd::from_owned(pipe[1]));
                let mut byte = [0];
                assert_eq!(sys::read(&Fd::from_owned(pipe[0]), &mut byte), Ok(1), "the child could not join");
                child
            }
        }
    }

    fn kill(child: i32) {
        // SAFETY: our own child, not yet waited for; `waitpid` may be given no status.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, core::ptr::null_mut(), 0);
        }
    }

    fn close_all_but(fd: i32) {
        for number in (3..1024).filter(|number| *number != fd) {
            // SAFETY: a child's own descriptors, which nothing in it uses any more.
            unsafe { libc::close(number) };
        }
    }

    #[test]
    fn one_that_has_closed_its_descriptors_lives_until_it_ends() {
        let bench = Bench::new();
        let child = tenant_process_that(&bench, 1, close_all_but);
        let while_it_runs = anyone_lives(&bench.directory, &bench.name);
        // Before anything can fail: it would not end by itself.
        kill(child);
        assert_eq!(while_it_runs, Ok(true));
        assert_eq!(anyone_lives(&bench.directory, &bench.name), Ok(false));
    }

    #[test]
    fn books_that_are_none_are_nobodys() {
        let bench = Bench::new();
        let [live, books] = [bench.directory.live(&bench.name), bench.directory.tenant(&bench.name)]
            .map(|path| path.unwrap().as_c_str().to_str().unwrap().to_owned());
        std::fs::write(live, "").unwrap();
        let missing = Unusable::System(sys::Errno(libc::ENOENT));
        assert_eq!(anyone_lives(&bench.directory, &bench.name), Err(missing));
        std::fs::write(books, "rubbish").unwrap();
        assert_eq!(anyone_lives(&bench.directory, &bench.name), Ok(false));
    }

    fn sweep_until_one_is_found(member: &Member) {
        while member.sweep() == Ok(0) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    // One test, since a process's record locks are one set: tests that ran side by side would drop each other's.
    #[test]
    fn a_killed_process_is_swept_and_its_place_taken_again_with_another_life() {
        let bench = Bench::new();
        let me: &Member = Box::leak(Box::new(Member::join(&bench.directory, &bench.name).unwrap()));
        let books = Books::of(me, me.tenant().gpu_index(GPU).unwrap());
        let child = tenant_process(&bench, 77);
        let other = tenant_process(&bench, 5);
        assert_eq!(books.tenant_usage().booked, 82 * MIB);
        assert_eq!(anyone_lives(&bench.directory, &bench.name), Ok(true));

        kill(child);
        sweep_until_one_is_found(me);
        assert_eq!(books.tenant_usage().booked, 5 * MIB);
        assert!(me.has_its_place());
        let reaped = me.tenant().events().entries().last().unwrap().event;
        assert_eq!(reaped, Event::Reaped { pid: child.cast_unsigned(), booked: 77 * MIB });

        // Not swept: whoever joins leaves the dead one's place alone until what it had need not be held any longer.
        kill(other);
        let next = tenant_process(&bench, 3);
        let third = tenant_process(&bench, 1);
        assert_eq!(books.tenant_usage().booked, 9 * MIB);
        sweep_until(&books, 4);
        kill(next);
        kill(third);
    }

    fn sweep_until(books: &Books, booked: u64) {
        while books.tenant_usage().booked != booked * MIB {
            let _ = books.member().sweep();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
