//! Two containers on one GPU: what one may have, what the other has to itself, and what happens when one is killed or the library
//! is replaced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cuota_tests::build;
use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::console::Console;
use cuota_tests::machine::{GIB, MIB};

use crate::RUNTIMES;
use crate::runtime::{Container, Runtime};
use crate::site::Site;

/// The pieces that a tenant fills its quota with.
const PIECE: u64 = 32 * MIB;

/// Takes all that a tenant is granted, in pieces; bytes.
#[track_caller]
fn fill(console: &mut Console) -> u64 {
    console.fill(PIECE).len() as u64 * PIECE
}

/// What is granted is the quota less the context, to the piece.
#[track_caller]
fn assert_is_the_rest_of(quota: u64, granted: u64, site: &Site, tenant: &str) {
    let overhead = site.machine.books(tenant).overhead;
    assert!(overhead > 0 && granted + overhead <= quota, "{granted} + {overhead} of {quota}");
    assert!(granted + overhead + PIECE > quota, "{granted} + {overhead} of {quota}");
}

#[test]
fn quotas_hold_across_containers_of_root_and_of_a_user() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let (alice, bob) = (
            site.tenant(runtime, "alice", &["--memory", "3GiB"]),
            site.tenant(runtime, "bob", &["--memory", "2GiB"]),
        );
        let (_first, mut of_root) = site.console(runtime, &alice, 0);
        let (_second, mut of_user) = site.console(runtime, &bob, 1000);
        let pids = [&mut of_root, &mut of_user].map(|console| console.ask("pid").number(0));
        assert_eq!(pids[0], pids[1], "each is the first process of a PID namespace of its own");
        assert_is_the_rest_of(3 * GIB, fill(&mut of_root), &site, &alice);
        assert_is_the_rest_of(2 * GIB, fill(&mut of_user), &site, &bob);
        assert_eq!(of_user.total(), 2 * GIB, "the GPU has the size of the quota");
        // What both have is what the GPU has lost.
        let booked = site.machine.books(&alice).booked + site.machine.books(&bob).booked;
        assert_eq!(site.machine.device_used(), booked, "{runtime:?}");
    }
}

#[test]
fn killed_container_leaves_its_quota_to_the_next_and_the_other_container_alone() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let (alice, bob) = (
            site.tenant(runtime, "alice", &["--memory", "3GiB"]),
            site.tenant(runtime, "bob", &["--memory", "2GiB"]),
        );
        let (first, mut killed) = site.console(runtime, &alice, 0);
        let (_second, mut other) = site.console(runtime, &bob, 1000);
        let pieces = other.fill(PIECE);
        fill(&mut killed);
        first.kill();
        drop(killed);
        let (_third, mut next) = site.console(runtime, &alice, 0);
        assert_is_the_rest_of(3 * GIB, fill(&mut next), &site, &alice);
        // The other one neither lost nor won anything.
        assert!(other.alloc(PIECE).is_err());
        assert_eq!(other.free(pieces[0]), 0);
        assert!(other.alloc(PIECE).is_ok() && other.alloc(PIECE).is_err());
    }
}

#[test]
fn processes_of_one_container_share_its_quota() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "4GiB"]);
        let (container, mut first) = site.console(runtime, &tenant, 0);
        let mut second = container.console_inside();
        second.use_primary_context();
        first.alloc(GIB).expect("there is room");
        assert_is_the_rest_of(3 * GIB, fill(&mut second), &site, &tenant);
    }
}

#[test]
fn changed_quota_reaches_a_running_container() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let (_container, mut console) = site.console(runtime, &tenant, 1000);
        fill(&mut console);
        site.cuota_ok(&["set", &tenant, "--memory", "3GiB"]);
        let more = fill(&mut console);
        assert!(more >= GIB - PIECE, "{more} bytes more");
    }
}

/// The library is renamed into the place of the one that a container runs with.
#[test]
fn library_is_upgraded_under_a_running_container() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "4GiB"]);
        let (container, mut old) = site.console(runtime, &tenant, 0);
        old.alloc(GIB).expect("there is room");
        let before = fs::metadata(site.library()).expect("it is installed").ino();
        fs::copy(build::libcuota(), site.path("lib/new")).expect("the folder is ours");
        fs::rename(site.path("lib/new"), site.library()).expect("the folder is ours");
        let mut new = container.console_inside();
        new.use_primary_context();
        // The old program has the old file, the new one the new one, and they share one quota.
        let installed = fs::metadata(site.library()).expect("it is installed").ino();
        assert_ne!(before, installed);
        assert_is_the_rest_of(3 * GIB, fill(&mut new), &site, &tenant);
        // The old one sees what the new one took: there is no more than its own context was overestimated by.
        let _ = old.fill(PIECE);
        let booked = site.machine.books(&tenant).booked;
        assert!(booked <= 4 * GIB && booked + PIECE > 4 * GIB, "{booked} bytes of 4 GiB");
        assert_eq!(site.machine.device_used(), booked);
        new.finish();
        assert!(old.alloc(GIB).is_ok(), "and what it gave back");
    }
}

/// The per cent of the GPU's time that a program gets that launches kernels of 1 ms without a pause, round by round.
struct Shares {
    console: Console,
    function: u64,
    stream: u64,
}

impl Shares {
    fn of(mut console: Console) -> Self {
        let code = b".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns=1000000 sms=132\n.visible .entry spin()\n{ ret; }\n\0";
        let module = console.call("cuModuleLoadData", &[Out(8), At(code)]).ok().number(0);
        let function =
            console.call("cuModuleGetFunction", &[Out(8), Is(module), Text("spin")]).ok().number(0);
        let stream = console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        let mut shares = Shares { console, function, stream };
        // What the budget had saved.
        shares.launch(50);
        shares
    }

    fn launch(&mut self, count: u64) {
        let (one, none) = (Is(1), Is(0));
        let arguments = [Is(self.function), one, one, one, one, one, one, none, Is(self.stream), none, none];
        assert_eq!(self.console.repeat(count, "cuLaunchKernel", &arguments), (0, count));
        let _ = self.console.call("cuStreamSynchronize", &[Is(self.stream)]).ok();
    }

    fn next(&mut self, kernels: u64) -> f64 {
        let begin = Instant::now();
        self.launch(kernels);
        kernels as f64 / begin.elapsed().as_secs_f64() / 10.0
    }
}

/// So often a share is taken until one is large enough: less can be this machine's, whose CPUs others use, too.
const ROUNDS: usize = 10;

#[test]
fn caps_hold_across_containers() {
    assert_caps_hold_across_containers(|_| true);
}

/// Each begins its quanta when the other does, so the driver slices all that they do.
#[test]
fn caps_hold_across_containers_neither_of_which_is_ever_alone() {
    assert_caps_hold_across_containers(|wanting| wanting == 0);
}

/// Two capped containers get what their caps allow. `may_end` says whether one that has had its share ends, where so many have not.
fn assert_caps_hold_across_containers(may_end: fn(usize) -> bool) {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let started =
            [("quarter", "25%", 25_u64, 0), ("tenth", "10%", 10, 1000)].map(|(name, cap, percent, uid)| {
                let tenant = site.tenant(runtime, name, &["--compute", cap]);
                (site.console(runtime, &tenant, uid), percent)
            });
        let wanting = AtomicUsize::new(started.len());
        // A container's root goes with it, so all stay until both have ended.
        let (consoles, _containers): (Vec<_>, Vec<_>) = started
            .into_iter()
            .map(|((container, console), percent)| ((console, percent), container))
            .unzip();
        std::thread::scope(|scope| {
            for (console, percent) in consoles {
                let wanting = &wanting;
                scope.spawn(move || {
                    assert_is_held_to(percent, console, runtime, |is_content| {
                        let one = usize::from(is_content);
                        may_end(wanting.fetch_sub(one, Ordering::Relaxed) - one)
                    });
                });
            }
        });
    }
}

/// The program gets what its cap allows, and no more. It goes on until it has, and `may_end`, which is told once that it has.
fn assert_is_held_to(percent: u64, console: Console, runtime: Runtime, may_end: impl Fn(bool) -> bool) {
    let mut shares = Shares::of(console);
    let (mut taken, mut is_content) = (Vec::new(), false);
    for _ in 0..ROUNDS {
        let share = shares.next(15 * percent);
        // As in `compute`: a quantum of credit at most is left.
        assert!(share <= percent as f64 * 1.02 + 0.5, "{share} under a cap of {percent} % ({runtime:?})");
        taken.push(share);
        let was_content = is_content;
        is_content |= share >= 0.8 * percent as f64;
        if is_content && may_end(!was_content) {
            break;
        }
    }
    assert!(is_content, "{taken:?} under a cap of {percent} % ({runtime:?})");
    shares.console.finish();
}

#[test]
fn runtime_that_cannot_mount_the_view_makes_no_container() {
    if !Runtime::Runc.is_there() {
        return;
    }
    let site = Site::new();
    let tenant = site.tenant(Runtime::Runc, "alice", &["--memory", "2GiB"]);
    let container = Container::new(&site, Runtime::Runc, &tenant);
    site.cuota_ok(&[
        "inject",
        "--hook",
        "--folder",
        &site.path("hooks").display().to_string(),
        "--tenant",
        &tenant,
        "--remove",
    ]);
    let output = container.run(0, &["true"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is not set up for containers"), "{said}");
}

/// Root of the container is nobody on the machine.
#[test]
fn container_with_a_user_namespace_is_held_too() {
    if !Runtime::Podman.is_there() {
        return;
    }
    let site = Site::new();
    let tenant = site.tenant(Runtime::Podman, "alice", &["--memory", "2GiB"]);
    let container = Container::new(&site, Runtime::Podman, &tenant).mapped_to(100_000);
    let mut console = container.start(0, &["/guest/console"]);
    console.use_primary_context();
    assert_is_the_rest_of(2 * GIB, fill(&mut console), &site, &tenant);
}
