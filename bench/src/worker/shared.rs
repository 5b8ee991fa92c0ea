//! A page that the parent and the tenants of one sample share: they say that they are ready, begin at one time, end when
//! told to, and leave a word for each other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shared_memory::{Shmem, ShmemConf};

use crate::clock::now_ns;

/// The most tenants at one time.
const PLACES: usize = 128;
/// How often the page is looked at while waiting.
const POLL: Duration = Duration::from_micros(200);
/// From the word to the start: time for everybody to have seen it.
const LEAD_NS: u64 = 20_000_000;

/// What lies in the page. Every field is an atomic, and zero is where all begin.
#[repr(C)]
struct Layout {
    ready: AtomicU32,
    stop: AtomicU32,
    go_at_ns: AtomicU64,
    words: [AtomicU64; PLACES],
}

/// The page, in the parent or in a tenant.
pub struct Page {
    memory: Shmem,
}

impl Page {
    /// Makes one; it goes with the value.
    pub fn create() -> Result<Self> {
        let memory = ShmemConf::new().size(size_of::<Layout>()).create();
        let memory = memory.map_err(|error| anyhow!("no shared page could be made: {error}"))?;
        // SAFETY: the memory is writable, long enough and nobody else's yet; zero bytes are valid for all fields.
        unsafe { memory.as_ptr().write_bytes(0, size_of::<Layout>()) };
        Ok(Self { memory })
    }

    /// Opens the page named `id`.
    pub fn open(id: &str) -> Result<Self> {
        let memory = ShmemConf::new().os_id(id).open();
        let memory = memory.map_err(|error| anyhow!("the shared page {id} could not be opened: {error}"))?;
        if memory.len() < size_of::<Layout>() {
            bail!("the shared page {id} has {} bytes and should have {}", memory.len(), size_of::<Layout>());
        }
        Ok(Self { memory })
    }

    /// The name by which tenants open it.
    pub fn id(&self) -> &str {
        self.memory.get_os_id()
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping is page-aligned, at least as long as `Layout` (checked), lives as long as `self`, and
        // all access of all processes is through atomics.
        unsafe { &*self.memory.as_ptr().cast::<Layout>() }
    }

    /// A tenant: says that it is ready and waits for the start, at most `patience`. Returns the start's time.
    pub fn wait_for_go(&self, patience: Duration) -> Result<u64> {
        self.layout().ready.fetch_add(1, Ordering::AcqRel);
        let end_ns = now_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX / 2);
        loop {
            let go_at_ns = self.layout().go_at_ns.load(Ordering::Acquire);
            if go_at_ns != 0 {
                thread::sleep(Duration::from_nanos(go_at_ns.saturating_sub(now_ns())));
                return Ok(go_at_ns);
            }
            if self.is_stopped() {
                bail!("the sample was given up before it began");
            }
            if now_ns() > end_ns {
                bail!("the other tenants of the sample were not ready after {} s", patience.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// The parent: waits until `count` tenants are ready; `check` fails when one of them has ended.
    pub fn wait_ready(
        &self,
        count: u32,
        patience: Duration,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let end_ns = now_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX / 2);
        while self.layout().ready.load(Ordering::Acquire) < count {
            check().context("before all tenants were ready")?;
            if now_ns() > end_ns {
                let ready = self.layout().ready.load(Ordering::Acquire);
                bail!("{ready} of {count} tenants were ready after {} s", patience.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The parent: lets all begin at one time, which it returns.
    pub fn go(&self) -> u64 {
        let at_ns = now_ns() + LEAD_NS;
        self.layout().go_at_ns.store(at_ns, Ordering::Release);
        at_ns
    }

    /// Tells all to end.
    pub fn stop(&self) {
        self.layout().stop.store(1, Ordering::Release);
    }

    /// True once all were told to end.
    pub fn is_stopped(&self) -> bool {
        self.layout().stop.load(Ordering::Acquire) != 0
    }

    /// Leaves a word at `place`.
    pub fn say(&self, place: usize, word: u64) {
        if let Some(at) = self.layout().words.get(place) {
            at.store(word, Ordering::Release);
        }
    }

    /// The word at `place`; 0 until there is one.
    pub fn heard(&self, place: usize) -> u64 {
        self.layout().words.get(place).map_or(0, |at| at.load(Ordering::Acquire))
    }

    /// Waits for a word other than 0 at `place`.
    pub fn wait_for_word(&self, place: usize, patience: Duration) -> Result<u64> {
        let end_ns = now_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX / 2);
        loop {
            match self.heard(place) {
                0 if self.is_stopped() => bail!("the sample was given up"),
                0 if now_ns() > end_ns => bail!("nothing was heard from tenant {place}"),
                0 => thread::sleep(POLL),
                word => return Ok(word),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn tenants_begin_at_the_time_that_the_parent_says() {
        let page = Page::create().unwrap();
        let id = page.id().to_owned();
        let tenants: Vec<_> = (0..3)
            .map(|place| {
                let id = id.clone();
                thread::spawn(move || {
                    let page = Page::open(&id).unwrap();
                    let at_ns = page.wait_for_go(PATIENCE).unwrap();
                    let began_ns = now_ns();
                    page.say(place, began_ns);
                    at_ns
                })
            })
            .collect();
        page.wait_ready(3, PATIENCE, || Ok(())).unwrap();
        let at_ns = page.go();
        for (place, tenant) in tenants.into_iter().enumerate() {
            assert_eq!(tenant.join().unwrap(), at_ns);
            assert!(page.wait_for_word(place, PATIENCE).unwrap() >= at_ns);
        }
    }

    #[test]
    fn who_waits_for_a_tenant_that_ended_is_told() {
        let page = Page::create().unwrap();
        let error = page.wait_ready(1, PATIENCE, || bail!("it ended")).unwrap_err();
        assert!(format!("{error:#}").contains("it ended"));
        page.stop();
        assert!(Page::open(page.id()).unwrap().wait_for_go(PATIENCE).is_err());
    }

    #[test]
    fn a_page_that_is_not_there_is_named() {
        let error = Page::open("/no-such-page-of-ours").err().unwrap().to_string();
        assert!(error.contains("/no-such-page-of-ours"), "{error}");
    }
}
