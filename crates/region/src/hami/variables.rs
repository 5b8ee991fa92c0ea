//! The variables by which HAMi, Volcano, KAI and FCSP say what a container may have.
//!
//! A limit is written with a number for one device of the container (`…_LIMIT_0`, FCSP's `…_LIMIT_DEV0`) or without for all of them.
//! What is unclear in their programs is read as people mean it: `10GB` is ten times 2^30 bytes, and a leading 0 means nothing.

use cuota_governor::cap::Cap;
use cuota_governor::entitlement::{Entitlement, Preset, WHOLE_PPM};

use super::DEVICES;
use crate::HELPER_VARIABLE;
use crate::policy::MemoryLimit;

/// The names, by number: events name a variable so, and numbers do not change. The first four are limits.
const NAMES: &str = "CUDA_DEVICE_MEMORY_LIMIT\0CUDA_DEVICE_SM_LIMIT\0BUD_MEMORY_LIMIT\0BUD_SM_LIMIT\0\
    CUDA_DEVICE_MEMORY_SHARED_CACHE\0CUDA_TASK_PRIORITY\0GPU_CORE_UTILIZATION_POLICY\0BUD_ISOLATION_MODE\0\
    CUDA_DISABLE_CONTROL\0CUDA_OVERSUBSCRIBE\0BUD_MEMORY_LIMIT_MODE\0BUD_TENANT_FLOOR_PCT\0BUD_SHARED_POOL_PCT\0\
    BUD_BURST_MAX_PCT";

/// The number of the variable that limits memory.
pub const MEMORY: usize = 0;
/// The number of the variable that limits time.
pub const COMPUTE: usize = 1;
const LIMITS: usize = 4;
/// The number of the variable that names the monitor's file.
pub const FILE: usize = 4;
const PRIORITY: usize = 5;
const POLICY: usize = 6;
const ISOLATION: usize = 7;
const FLOOR: usize = 11;
const BURST: usize = 13;

/// The number of our own `CUOTA_HELPER`, as events name it.
pub const HELPER: u32 = 31;

/// The longest path of a file, bytes.
const PATH_BYTES: usize = 400;

/// A table's last place: for the devices that have none of their own.
const ALL: usize = DEVICES;

/// The name of the variable with this number.
#[must_use]
pub fn name(number: usize) -> Option<&'static str> {
    if number == HELPER as usize { Some(HELPER_VARIABLE) } else { NAMES.split('\0').nth(number) }
}

/// What a variable asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// Nothing: it is not there, or empty.
    Unset,
    /// It cannot be read.
    Unreadable,
    /// A number, or bytes.
    Plain(u64),
    /// A share, parts per million.
    Share(u64),
}

/// When the shares of GPU time count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// While the monitor says so.
    Switched,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the environment asks for. All-zero when it asks for nothing, so that it takes no room in the library's file.
#[derive(Clone, Copy)]
pub struct Variables {
    limits: [[Amount; DEVICES + 1]; LIMITS],
    path: [u8; PATH_BYTES],
    path_bytes: usize,
    /// One more than the priority asked for; 0: none was.
    priority: i32,
    when: When,
    /// FCSP's mode. With [`Preset::None`] its limits of time do not count.
    mode: Preset,
    /// What FCSP guarantees in the place of the share, and how far beyond the share it lets go, parts per million.
    floor_ppm: Option<u32>,
    burst_ppm: Option<u32>,
    /// By number, a bit each: found.
    found: u32,
    /// Found, and not read.
    unreadable: u32,
    /// Found, and not followed.
    ignored: u32,
}

impl Variables {
    /// No variable at all.
    #[must_use]
    pub const fn none() -> Self {
        Variables {
            limits: [[Amount::Unset; DEVICES + 1]; LIMITS],
            path: [0; PATH_BYTES],
            path_bytes: 0,
            priority: 0,
            when: When::Switched,
            mode: Preset::Strict,
            floor_ppm: None,
            burst_ppm: None,
            found: 0,
            unreadable: 0,
            ignored: 0,
        }
    }

    /// Notes an entry of the environment, `NAME=value`, if it is one of these. Of two with the same name the first counts.
    pub fn note(&mut self, entry: &[u8]) {
        // What nearly every entry is: something else.
        if !matches!(entry.first(), Some(b'B' | b'C' | b'G')) {
            return;
        }
        let known = NAMES.as_bytes().split(|byte| *byte == 0).enumerate().find_map(|(number, name)| {
            let rest = entry.strip_prefix(name)?;
            let (device, value) = if number < LIMITS { device_of(rest)? } else { (ALL, rest) };
            Some((number, device, trimmed(value.strip_prefix(b"=")?)))
        });
        if let Some((number, device, value)) = known
            && !value.is_empty()
        {
            self.set(number, device, value);
        }
    }

    fn set(&mut self, number: usize, device: usize, value: &[u8]) {
        let bit = 1_u32 << number;
        if let Some(limit) = self.limits.get_mut(number).and_then(|table| table.get_mut(device)) {
            if *limit == Amount::Unset {
                *limit = if number % 2 == COMPUTE { compute(value) } else { memory(value) };
                if *limit == Amount::Unreadable {
                    self.unreadable |= bit;
                }
            }
        } else if self.found & bit == 0 {
            let is_read = match number {
                FILE => self.set_path(value),
                PRIORITY => self.set_priority(value),
                POLICY => self.set_policy(value),
                ISOLATION => self.set_isolation(value),
                FLOOR => set_part(&mut self.floor_ppm, value),
                BURST => set_part(&mut self.burst_ppm, value),
                _ => true,
            };
            // What a switch says that asks for nothing.
            let is_off = || is(value, b"0") || is(value, b"false") || is(value, b"hard");
            if !is_read {
                self.unreadable |= bit;
            } else if number > ISOLATION && !is_off() {
                self.ignored |= bit;
            }
        }
        self.found |= bit;
    }

    /// Notes where the monitor's file is, which no variable says.
    pub fn note_path(&mut self, path: &[u8]) {
        self.found |= 1 << FILE;
        self.set_path(path);
    }

    /// Forgets where a variable says that the monitor's file is.
    pub fn forget_path(&mut self) {
        self.path_bytes = 0;
    }

    fn set_path(&mut self, value: &[u8]) -> bool {
        let fits = value.len() <= PATH_BYTES;
        if fits {
            self.path.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            self.path_bytes = value.len();
        }
        fits
    }

    fn set_priority(&mut self, value: &[u8]) -> bool {
        let Some((priority, Unit::None)) = read(value, 1) else { return false };
        self.priority = i32::try_from(priority.saturating_add(1)).unwrap_or(i32::MAX);
        true
    }

    fn set_policy(&mut self, value: &[u8]) -> bool {
        self.when = match () {
            () if is(value, b"force") => When::Always,
            () if is(value, b"disable") => When::Never,
            () => return is(value, b"default"),
        };
        true
    }

    fn set_isolation(&mut self, value: &[u8]) -> bool {
        self.mode = match () {
            () if is(value, b"none") => Preset::None,
            () if is(value, b"balanced") => Preset::Balanced,
            () if is(value, b"adaptive") => Preset::Adaptive,
            () => return is(value, b"strict"),
        };
        self.ignored |= if self.mode == Preset::None { 0 } else { 1 << ISOLATION };
        true
    }

    /// Whether any of them says that this is a container of HAMi's or FCSP's: a limit, or where the monitor's file is.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.found.trailing_zeros() as usize <= FILE
    }

    /// Whether any of them is a limit.
    #[must_use]
    pub fn have_limits(&self) -> bool {
        (self.found.trailing_zeros() as usize) < LIMITS
    }

    /// The numbers of the variables that were found, a bit each.
    #[must_use]
    pub fn found(&self) -> u32 {
        self.found
    }

    /// Where the monitor's file is to be, if a variable says so.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        self.path.get(..self.path_bytes).filter(|path| !path.is_empty())
    }

    /// The container's priority: 0 goes before 1, which is what counts without the variable.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.priority.checked_sub(1).filter(|priority| *priority >= 0).unwrap_or(1)
    }

    /// When the shares of GPU time count.
    #[must_use]
    pub fn when(&self) -> When {
        self.when
    }

    /// The numbers of the variables that were found: a bit each for those that could not be read, and for those that are not
    /// followed, where the container takes turns with others or does not.
    #[must_use]
    pub fn complaints(&self, takes_turns: bool) -> (u32, u32) {
        (self.unreadable, self.ignored & if takes_turns { !self.followed() } else { u32::MAX })
    }

    /// The numbers of those of FCSP's variables that [`Self::entitle`] follows, a bit each. None beside a share of HAMi's, which goes before.
    fn followed(&self) -> u32 {
        if self.found & 1 << COMPUTE != 0 {
            return 0;
        }
        match self.mode {
            Preset::Strict => 1 << FLOOR,
            Preset::Balanced | Preset::Adaptive => 1 << ISOLATION | 1 << FLOOR | 1 << BURST,
            Preset::None => 0,
        }
    }

    /// What FCSP's mode, floor and burst make of a device's `share` of time, where the container takes turns with others: without turns
    /// nobody keeps a guarantee. A share that does not bind is none, and nothing is guaranteed by it.
    #[must_use]
    pub fn entitle(&self, share: Cap) -> (Cap, Entitlement) {
        let followed = self.followed();
        let (mut cap, mut entitlement) = (share, Entitlement::USUAL);
        if followed >> ISOLATION & 1 != 0 && share.binds() {
            entitlement.guarantee_ppm = share.ppm();
            let most_ppm = share.ppm() + self.burst_ppm.unwrap_or(WHOLE_PPM);
            cap = Cap::from_ppm(most_ppm).unwrap_or(Cap::FULL);
        }
        // The floor is followed where anything is.
        if followed != 0 {
            entitlement.guarantee_ppm = self.floor_ppm.unwrap_or(entitlement.guarantee_ppm).min(cap.ppm());
        }
        // Without a guarantee it would have nothing beside others.
        if self.mode == Preset::Adaptive && entitlement.guarantee_ppm != 0 {
            entitlement.weight = 0;
        }
        (cap, entitlement)
    }

    /// The limit of a device of the container, HAMi's before FCSP's; 0 for one device leaves it to the limit of all, as in HAMi-core.
    /// And whether it is FCSP's.
    fn limit(&self, kind: usize, device: usize) -> (Amount, bool) {
        for number in [kind, kind + 2] {
            let table = self.limits.get(number);
            let own = table
                .and_then(|table| table.get(device.min(ALL)))
                .filter(|own| !matches!(own, Amount::Unset | Amount::Plain(0) | Amount::Share(0)));
            let limit = own.or(table.and_then(|table| table.last())).copied().unwrap_or(Amount::Unset);
            if limit != Amount::Unset {
                return (limit, number != kind);
            }
        }
        (Amount::Unset, false)
    }

    /// The memory quota of a device of the container. Of one that cannot be read nothing is granted.
    #[must_use]
    pub fn memory(&self, device: usize) -> MemoryLimit {
        match self.limit(MEMORY, device).0 {
            Amount::Unset | Amount::Plain(0) | Amount::Share(0) => MemoryLimit::Unlimited,
            Amount::Unreadable => MemoryLimit::Bytes(0),
            Amount::Plain(bytes) => MemoryLimit::Bytes(bytes),
            Amount::Share(ppm) => MemoryLimit::Share(u32::try_from(ppm).unwrap_or(u32::MAX)),
        }
    }

    /// The share of a device's time. One that cannot be read limits nothing.
    #[must_use]
    pub fn compute(&self, device: usize) -> Cap {
        match self.limit(COMPUTE, device) {
            (Amount::Share(ppm), is_fcsp) if !(self.mode == Preset::None && is_fcsp) => {
                u32::try_from(ppm).ok().and_then(|ppm| Cap::from_ppm(ppm).ok()).unwrap_or(Cap::FULL)
            }
            _ => Cap::FULL,
        }
    }
}

/// Whether `text` is `word`, which is in small letters, in any case. (The library's own comparison of that kind is 300 bytes long.)
#[inline(never)]
fn is(text: &[u8], word: &[u8]) -> bool {
    text.len() == word.len() && text.iter().zip(word).all(|(byte, small)| byte.to_ascii_lowercase() == *small)
}

/// A text without the blanks around it.
#[inline(never)]
fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// Reads a part of a device's time; `false`: it cannot be read.
fn set_part(part_ppm: &mut Option<u32>, value: &[u8]) -> bool {
    let Amount::Share(ppm) = compute(value) else { return false };
    *part_ppm = u32::try_from(ppm).ok();
    true
}

/// What stands between a limit's name and its value: the device's number, [`ALL`] without one; and the rest.
fn device_of(rest: &[u8]) -> Option<(usize, &[u8])> {
    let Some(numbered) = rest.strip_prefix(b"_") else { return Some((ALL, rest)) };
    let digits = numbered.strip_prefix(b"DEV").unwrap_or(numbered);
    let (device, rest) = digits.split_at_checked(digits.iter().position(|byte| *byte == b'=')?)?;
    match read(device, 1)? {
        (device, Unit::None) if device < DEVICES as u64 => Some((usize::try_from(device).ok()?, rest)),
        _ => None,
    }
}

/// What a number was followed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    None,
    Percent,
    Bytes,
}

/// 1 % in parts per million.
const PERCENT: u64 = 10_000;
const WHOLE: u64 = 100 * PERCENT;

/// Places after the dot count up to this.
const FRACTION: u64 = 1_000_000;

/// A limit of memory: bytes, or a share of the device's.
fn memory(text: &[u8]) -> Amount {
    match read(text, 1) {
        Some((ppm, Unit::Percent)) if ppm <= WHOLE => Amount::Share(ppm),
        Some((bytes, Unit::None | Unit::Bytes)) => Amount::Plain(bytes),
        _ => Amount::Unreadable,
    }
}

/// A limit of time, per cent; more than all of it is all of it.
fn compute(text: &[u8]) -> Amount {
    match read(text, PERCENT) {
        Some((ppm, Unit::None | Unit::Percent)) => Amount::Share(ppm.min(WHOLE)),
        _ => Amount::Unreadable,
    }
}

/// Reads digits, perhaps with a dot, and nothing, which stands for `plain`, or `%`, or k, m, g or t, with or without `b` or `ib`, in
/// any case. `None`: it is none of that, or 2^64 and more.
fn read(text: &[u8], plain: u64) -> Option<(u64, Unit)> {
    let (mut value, mut divisor, mut has_digits, mut rest) = (0_u64, 0, false, text);
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'0'..=b'9' if divisor < FRACTION => {
                value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                divisor *= 10;
                has_digits = true;
            }
            // Too little to count.
            b'0'..=b'9' => {}
            b'.' if divisor == 0 => divisor = 1,
            _ => break,
        }
        rest = after;
    }
    let (letter, name) = trimmed(rest).split_first().unwrap_or((&0, &[]));
    let (scale, unit) = match letter.to_ascii_lowercase() {
        0 => (plain, Unit::None),
        b'%' => (PERCENT, Unit::Percent),
        letter => (1 << (10 * b"bkmgt".iter().position(|known| *known == letter)?), Unit::Bytes),
    };
    let is_whole = name.is_empty()
        || unit == Unit::Bytes && scale != 1 && (is(name, b"b") || is(name, b"ib") || is(name, b"i"));
    let divisor = divisor.max(1);
    // What a division by a million leaves, times 2^40, is below 2^60.
    let scaled = (value / divisor).checked_mul(scale)?.checked_add(value % divisor * scale / divisor)?;
    (has_digits && is_whole).then_some((scaled, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(entries: &[&str]) -> Variables {
        let mut variables = Variables::none();
        entries.iter().for_each(|entry| variables.note(entry.as_bytes()));
        variables
    }

    fn memory_of(value: &str) -> MemoryLimit {
        of(&[&format!("CUDA_DEVICE_MEMORY_LIMIT={value}")]).memory(0)
    }

    fn compute_of(value: &str) -> u32 {
        of(&[&format!("CUDA_DEVICE_SM_LIMIT={value}")]).compute(0).ppm()
    }

    #[test]
    fn a_size_is_read_as_people_mean_it() {
        const GIB: u64 = 1 << 30;
        for (text, bytes) in [
            ("8192m", 8 * GIB),
            ("8g", 8 * GIB),
            ("8G", 8 * GIB),
            ("8GB", 8 * GIB),
            ("8 GiB", 8 * GIB),
            ("8Gi", 8 * GIB),
            (" 8g ", 8 * GIB),
            ("1.5g", 3 * GIB / 2),
            ("0.5k", 512),
            (".5k", 512),
            ("010m", 10 << 20),
            ("2t", 2048 * GIB),
            ("8589934592", 8 * GIB),
            ("100B", 100),
            ("1.99999999999k", 2047),
        ] {
            assert_eq!(memory_of(text), MemoryLimit::Bytes(bytes), "{text:?}");
        }
        assert_eq!(memory_of("50%"), MemoryLimit::Share(500_000));
        assert_eq!(memory_of("12.5 %"), MemoryLimit::Share(125_000));
    }

    #[test]
    fn nothing_asked_for_is_no_limit() {
        for text in ["", " ", "0", "0m", "0%", "0.0g"] {
            assert_eq!(memory_of(text), MemoryLimit::Unlimited, "{text:?}");
            assert_eq!(compute_of(text.trim_end_matches(['m', 'g'])), 1_000_000, "{text:?}");
        }
        assert_eq!(of(&["PATH=/bin"]).memory(0), MemoryLimit::Unlimited);
        assert_eq!(of(&["PATH=/bin"]).compute(0), Cap::FULL);
    }

    #[test]
    fn of_memory_whose_limit_cannot_be_read_nothing_is_granted() {
        for text in [
            "eight",
            "8x",
            "-1",
            "8gg",
            "8 g b",
            "g",
            ".",
            "1.2.3g",
            "101%",
            "50%%",
            "5%b",
            "0x10",
            "20000000t",
            "1e9",
        ] {
            let variables = of(&[&format!("CUDA_DEVICE_MEMORY_LIMIT={text}")]);
            assert_eq!(variables.memory(3), MemoryLimit::Bytes(0), "{text:?}");
            assert_eq!(variables.complaints(false), (1, 0), "{text:?}");
        }
    }

    #[test]
    fn a_share_of_time_is_per_cent() {
        for (text, ppm) in [
            ("60", 600_000),
            ("60%", 600_000),
            ("12.5", 125_000),
            ("0.5", 5_000),
            ("100", 1_000_000),
            ("150", 1_000_000),
        ] {
            assert_eq!(compute_of(text), ppm, "{text:?}");
        }
    }

    #[test]
    fn a_share_of_time_that_cannot_be_read_limits_nothing_and_is_complained_of() {
        for text in ["half", "50m", "-5", "50 percent"] {
            let variables = of(&[&format!("CUDA_DEVICE_SM_LIMIT_2={text}")]);
            assert_eq!((variables.compute(2), variables.complaints(false)), (Cap::FULL, (2, 0)), "{text:?}");
        }
    }

    #[test]
    fn a_devices_own_limit_goes_before_the_limit_of_all_unless_it_is_0() {
        let variables = of(&[
            "CUDA_DEVICE_MEMORY_LIMIT_0=1g",
            "CUDA_DEVICE_MEMORY_LIMIT=2g",
            "CUDA_DEVICE_MEMORY_LIMIT_2=0",
            "CUDA_DEVICE_MEMORY_LIMIT_16=9g",
            "CUDA_DEVICE_SM_LIMIT_15=30",
        ]);
        let memory = [0, 1, 2, 15, 99].map(|device| variables.memory(device));
        assert_eq!(memory, [1, 2, 2, 2, 2].map(|gib| MemoryLimit::Bytes(gib << 30)));
        assert_eq!((variables.compute(15).ppm(), variables.compute(0)), (300_000, Cap::FULL));
    }

    #[test]
    fn of_two_variables_with_one_name_the_first_counts() {
        assert_eq!(
            of(&["CUDA_DEVICE_MEMORY_LIMIT=1k", "CUDA_DEVICE_MEMORY_LIMIT=2k"]).memory(0),
            MemoryLimit::Bytes(1024)
        );
        let variables = of(&["CUDA_DEVICE_MEMORY_SHARED_CACHE=/a", "CUDA_DEVICE_MEMORY_SHARED_CACHE=/bc"]);
        assert_eq!(variables.path(), Some(&b"/a"[..]));
    }

    #[test]
    fn fcsps_limits_count_where_hami_says_nothing() {
        let fcsp =
            ["BUD_MEMORY_LIMIT=8G", "BUD_MEMORY_LIMIT_DEV1=50%", "BUD_SM_LIMIT=50", "BUD_SM_LIMIT_DEV1=30"];
        let variables = of(&fcsp);
        assert_eq!(variables.memory(0), MemoryLimit::Bytes(8 << 30));
        assert_eq!(variables.memory(1), MemoryLimit::Share(500_000));
        assert_eq!([0, 1].map(|device| variables.compute(device).ppm()), [500_000, 300_000]);
        let both = of(&[&fcsp[..], &["CUDA_DEVICE_MEMORY_LIMIT=1g"]].concat());
        assert_eq!([0, 1].map(|device| both.memory(device)), [MemoryLimit::Bytes(1 << 30); 2]);
        assert_eq!(both.compute(0).ppm(), 500_000);
    }

    #[test]
    fn fcsp_without_isolation_limits_no_time_but_memory() {
        let variables = of(&["BUD_ISOLATION_MODE=none", "BUD_SM_LIMIT=50", "BUD_MEMORY_LIMIT=1g"]);
        assert_eq!(variables.compute(0), Cap::FULL);
        assert_eq!(variables.memory(0), MemoryLimit::Bytes(1 << 30));
        assert_eq!(of(&["BUD_ISOLATION_MODE=none", "CUDA_DEVICE_SM_LIMIT=50"]).compute(0).ppm(), 500_000);
        assert_eq!(of(&["BUD_ISOLATION_MODE=strict"]).complaints(false), (0, 0));
        assert_eq!(of(&["BUD_ISOLATION_MODE=balanced"]).complaints(false), (0, 1 << ISOLATION));
    }

    const F: u32 = 1 << FLOOR;
    const B: u32 = 1 << BURST;
    const I: u32 = 1 << ISOLATION;

    #[test]
    fn fcsps_modes_are_a_cap_a_guarantee_and_a_weight_where_turns_are_taken() {
        let of_60 = |entries: &str| {
            let variables =
                of(&[&["BUD_SM_LIMIT=60"], &entries.split_whitespace().collect::<Vec<_>>()[..]].concat());
            let (cap, entitlement) = variables.entitle(variables.compute(0));
            assert_eq!(entitlement.priority, Entitlement::USUAL.priority);
            let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
            (
                percent(cap.ppm()),
                percent(entitlement.guarantee_ppm),
                entitlement.weight,
                variables.complaints(true),
            )
        };
        let pool = NAMES.split('\0').position(|name| name == "BUD_SHARED_POOL_PCT").unwrap();
        for (entries, asked) in [
            ("", (60.0, 0.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=strict", (60.0, 0.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=balanced", (100.0, 60.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=Adaptive", (100.0, 60.0, 0, (0, 0))),
            ("BUD_ISOLATION_MODE=none", (100.0, 0.0, 100, (0, 0))),
            // How far beyond the share.
            ("BUD_ISOLATION_MODE=balanced BUD_BURST_MAX_PCT=25", (85.0, 60.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_BURST_MAX_PCT=12.5%", (72.5, 60.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_BURST_MAX_PCT=0", (60.0, 60.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=adaptive BUD_BURST_MAX_PCT=25", (85.0, 60.0, 0, (0, 0))),
            ("BUD_ISOLATION_MODE=adaptive BUD_BURST_MAX_PCT=40", (100.0, 60.0, 0, (0, 0))),
            ("BUD_ISOLATION_MODE=adaptive BUD_BURST_MAX_PCT=4000", (100.0, 60.0, 0, (0, 0))),
            // The guarantee in the share's place, below the cap.
            ("BUD_TENANT_FLOOR_PCT=20", (60.0, 20.0, 100, (0, 0))),
            ("BUD_TENANT_FLOOR_PCT=80", (60.0, 60.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=strict BUD_TENANT_FLOOR_PCT=20%", (60.0, 20.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_TENANT_FLOOR_PCT=20", (100.0, 20.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_TENANT_FLOOR_PCT=80", (100.0, 80.0, 100, (0, 0))),
            ("BUD_ISOLATION_MODE=adaptive BUD_TENANT_FLOOR_PCT=20", (100.0, 20.0, 0, (0, 0))),
            (
                "BUD_ISOLATION_MODE=adaptive BUD_TENANT_FLOOR_PCT=90 BUD_BURST_MAX_PCT=10",
                (70.0, 70.0, 0, (0, 0)),
            ),
            // One that has the weight 0 and no guarantee would have nothing.
            ("BUD_ISOLATION_MODE=adaptive BUD_TENANT_FLOOR_PCT=0", (100.0, 0.0, 100, (0, 0))),
            // There is no burst where nothing is lent, and no isolation is none.
            ("BUD_BURST_MAX_PCT=40", (60.0, 0.0, 100, (0, B))),
            ("BUD_ISOLATION_MODE=strict BUD_BURST_MAX_PCT=40", (60.0, 0.0, 100, (0, B))),
            (
                "BUD_ISOLATION_MODE=none BUD_TENANT_FLOOR_PCT=20 BUD_BURST_MAX_PCT=40",
                (100.0, 0.0, 100, (0, F | B)),
            ),
            ("BUD_ISOLATION_MODE=balanced BUD_SHARED_POOL_PCT=40", (100.0, 60.0, 100, (0, 1 << pool))),
            // What cannot be read.
            ("BUD_ISOLATION_MODE=fair", (60.0, 0.0, 100, (I, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_TENANT_FLOOR_PCT=much", (100.0, 60.0, 100, (F, 0))),
            ("BUD_ISOLATION_MODE=balanced BUD_BURST_MAX_PCT=-5", (100.0, 60.0, 100, (B, 0))),
            ("BUD_TENANT_FLOOR_PCT=2g BUD_BURST_MAX_PCT=false", (60.0, 0.0, 100, (F | B, 0))),
            // HAMi's share goes before all of it.
            (
                "BUD_ISOLATION_MODE=balanced BUD_TENANT_FLOOR_PCT=20 CUDA_DEVICE_SM_LIMIT=30",
                (30.0, 0.0, 100, (0, I | F)),
            ),
        ] {
            assert_eq!(of_60(entries), asked, "{entries}");
        }
    }

    #[test]
    fn share_that_does_not_bind_is_no_guarantee() {
        for mode in ["balanced", "adaptive"] {
            let mode = format!("BUD_ISOLATION_MODE={mode}");
            for entries in [&[&mode[..]][..], &[&mode, "BUD_SM_LIMIT=100"], &[&mode, "BUD_BURST_MAX_PCT=5"]] {
                let variables = of(entries);
                let found = variables.entitle(variables.compute(0));
                assert_eq!(found, (Cap::FULL, Entitlement::USUAL), "{entries:?}");
            }
            let (cap, entitlement) = of(&[&mode, "BUD_TENANT_FLOOR_PCT=30"]).entitle(Cap::FULL);
            assert_eq!((cap, entitlement.guarantee_ppm), (Cap::FULL, 300_000));
        }
    }

    #[test]
    fn without_turns_fcsps_modes_are_named() {
        let entries = ["BUD_ISOLATION_MODE=balanced", "BUD_TENANT_FLOOR_PCT=20", "BUD_BURST_MAX_PCT=40"];
        let variables = of(&[&entries[..], &["BUD_SM_LIMIT=60"]].concat());
        assert_eq!((variables.compute(0).ppm(), variables.complaints(false)), (600_000, (0, I | F | B)));
        assert_eq!(of(&["BUD_TENANT_FLOOR_PCT=much"]).complaints(false), (F, 0));
    }

    #[test]
    fn what_is_not_followed_is_complained_of_by_name() {
        for (name, value) in [
            ("CUDA_DISABLE_CONTROL", "true"),
            ("CUDA_OVERSUBSCRIBE", "true"),
            ("BUD_MEMORY_LIMIT_MODE", "soft"),
            ("BUD_TENANT_FLOOR_PCT", "20"),
            ("BUD_SHARED_POOL_PCT", "40"),
            ("BUD_BURST_MAX_PCT", "40"),
        ] {
            let (unreadable, ignored) = of(&[&format!("{name}={value}")]).complaints(false);
            assert_eq!((unreadable, ignored.count_ones()), (0, 1), "{name}");
            assert_eq!(super::name(ignored.trailing_zeros() as usize), Some(name));
        }
        assert_eq!(of(&["CUDA_OVERSUBSCRIBE=false", "BUD_MEMORY_LIMIT_MODE=hard"]).complaints(false), (0, 0));
    }

    #[test]
    fn policies_and_priorities_are_read() {
        let when = |value: &str| of(&[&format!("GPU_CORE_UTILIZATION_POLICY={value}")]).when();
        assert_eq!(
            ["force", "DISABLE", "default", "x"].map(when),
            [When::Always, When::Never, When::Switched, When::Switched]
        );
        assert_eq!(of(&["GPU_CORE_UTILIZATION_POLICY=x"]).complaints(false), (1 << POLICY, 0));
        let priority = |value: &str| of(&[&format!("CUDA_TASK_PRIORITY={value}")]).priority();
        assert_eq!(["0", "1", "2", "", "high", "99999999999"].map(priority), [0, 1, 2, 1, 1, i32::MAX - 1]);
        assert_eq!(Variables::none().priority(), 1);
    }

    #[test]
    fn only_limits_and_the_file_make_a_container_of_hamis() {
        for there in [
            "CUDA_DEVICE_MEMORY_LIMIT=1g",
            "CUDA_DEVICE_SM_LIMIT_0=5",
            "BUD_SM_LIMIT_DEV3=5",
            "CUDA_DEVICE_MEMORY_SHARED_CACHE=/x",
        ] {
            assert!(of(&[there]).are_there(), "{there}");
        }
        for not in [
            "CUDA_DISABLE_CONTROL=1",
            "CUDA_VISIBLE_DEVICES=0",
            "CUDA_DEVICE_MEMORY_LIMIT=",
            "CUDA_TASK_PRIORITY=0",
        ] {
            assert!(!of(&[not]).are_there(), "{not}");
        }
    }

    #[test]
    fn a_path_that_does_not_fit_is_no_path() {
        let variables = of(&[&format!("CUDA_DEVICE_MEMORY_SHARED_CACHE=/{}", "a".repeat(PATH_BYTES))]);
        assert_eq!((variables.path(), variables.complaints(false)), (None, (1 << FILE, 0)));
    }

    proptest! {
        #[test]
        fn what_hami_writes_is_read_exactly(mib in 1_u64..=1 << 40, device in 0_usize..DEVICES, percent in 1_u32..=100) {
            let variables = of(&[
                &format!("CUDA_DEVICE_MEMORY_LIMIT_{device}={mib}m"),
                &format!("CUDA_DEVICE_SM_LIMIT={percent}"),
            ]);
            prop_assert_eq!(variables.memory(device), MemoryLimit::Bytes(mib << 20));
            prop_assert_eq!(variables.memory((device + 1) % DEVICES), MemoryLimit::Unlimited);
            prop_assert_eq!(variables.compute(device).ppm(), percent * 10_000);
        }

        #[test]
        fn case_spaces_and_the_unit_s_name_change_nothing(
            value in 0_u64..1 << 20, unit in "[kmgt]", name in "(|i|b|ib)", space in " ?", upper: bool,
        ) {
            let plain = memory_of(&format!("{value}{unit}"));
            let text = format!("{space}{value}{space}{unit}{name}{space}");
            prop_assert_eq!(memory_of(&if upper { text.to_uppercase() } else { text }), plain);
        }

        #[test]
        fn any_text_is_a_limit_or_is_complained_of(value in "[^\0]{0,40}") {
            let variables = of(&[&format!("CUDA_DEVICE_MEMORY_LIMIT_0={value}")]);
            let is_bad = variables.complaints(false).0 != 0;
            prop_assert_eq!(is_bad, variables.memory(0) == MemoryLimit::Bytes(0));
            prop_assert_eq!(variables.are_there(), !value.trim_ascii().is_empty());
        }

        #[test]
        fn no_entry_ends_the_reader(entries in proptest::collection::vec(
            (0_usize..15, "(|_|_[0-9]{1,25}|_DEV[0-9]{0,3}|x)", proptest::collection::vec(any::<u8>(), 0..450)), 0..8,
        )) {
            let mut variables = Variables::none();
            for (number, between, value) in entries {
                let mut entry = name(number).unwrap_or("CUDA_").as_bytes().to_vec();
                entry.extend(between.bytes().chain(*b"=").chain(value));
                variables.note(&entry);
            }
            for device in 0..20 {
                let _ = variables.memory(device);
                let (cap, entitlement) = variables.entitle(variables.compute(device));
                prop_assert!(cap >= variables.compute(device) && entitlement.guarantee_ppm <= cap.ppm());
            }
            let [(unreadable, ignored), (_, not_followed)] = [false, true].map(|turns| variables.complaints(turns));
            prop_assert_eq!((unreadable & ignored, not_followed & !ignored), (0, 0));
            prop_assert!(variables.path().is_none_or(|path| path.len() <= PATH_BYTES));
            prop_assert!(variables.priority() >= 0);
        }
    }
}
