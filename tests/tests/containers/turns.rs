//! Containers that take turns: tenants in PID and mount namespaces of their own, of different users, with one arena that the operator has
//! opened to both.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cuota_region::arena::Arena;
use cuota_region::name::TenantName;
use cuota_region::path::{Directory, Path};
use cuota_region::tenant::{Meter, Tenant};
use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::console::Console;
use cuota_tests::wait::eventually;

use crate::RUNTIMES;
use crate::runtime::Leashed;
use crate::site::Site;

/// 1 ms in nanoseconds.
const MS: u64 = 1_000_000;

/// More launches than the test waits for.
const ENDLESS: u64 = 1_000_000;

/// So often a share is taken until one is as it should be: another can be this machine's, whose CPUs others use, too.
const ROUNDS: usize = 5;

/// Lets it launch kernels of half a millisecond, which take all of the GPU.
#[track_caller]
fn begin(console: &mut Console, count: u64) {
    let code =
        b".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns=500000 sms=132\n.visible .entry spin()\n{ ret; }\n\0";
    let module = console.call("cuModuleLoadData", &[Out(8), At(code)]).ok().number(0);
    let function = console.call("cuModuleGetFunction", &[Out(8), Is(module), Text("spin")]).ok().number(0);
    let stream = console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
    let (one, none) = (Is(1), Is(0));
    let arguments = [Is(function), one, one, one, one, one, one, none, Is(stream), none, none];
    console.start_repeating(count, "cuLaunchKernel", &arguments);
}

/// The GPU's arena, made by a tenant of the operator's own and opened to all.
#[track_caller]
fn open_arena(site: &Site) -> PathBuf {
    let mut own = site.machine.tenant_with("own", &[]).start_with_context();
    begin(&mut own, 4);
    assert_eq!(own.hear().status, 0);
    own.finish();
    let mut files = fs::read_dir(site.machine.region().join("arena")).expect("it was made");
    let file = files.next().expect("the GPU has an arena").expect("the folder is ours").path();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("it is ours");
    file
}

/// Turns that have passed.
#[track_caller]
fn passed(file: &std::path::Path) -> u64 {
    let path = Path::of(&[file.as_os_str().as_bytes()]).expect("a short path");
    Arena::at(&path, 0o600).expect("a whole arena").tally()[0]
}

/// GPU time that a tenant has used, ns.
fn used_ns(site: &Site, tenant: &str) -> u64 {
    let directory = Directory::at(site.machine.region().as_os_str().as_bytes()).expect("a short path");
    let name = TenantName::parse(tenant.as_bytes()).expect("a tenant's name");
    let file = Tenant::open(&directory.tenant(&name).expect("a short path")).expect("it has a file");
    let gpu = file.gpus().next().expect("it has used a GPU").0;
    file.meter(gpu).map_or(0, Meter::used_ns)
}

#[test]
fn turns_and_weights_hold_across_containers_and_one_that_is_killed_leaves_the_gpu_to_the_other() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let arena = open_arena(&site);
        let names = ["alice", "bob"].map(|name| site.tenant(runtime, name, &["--memory", "2GiB"]));
        site.cuota_ok(&["set", &names[0], "--weight", "300"]);
        let [(first, mut alice), (second, mut bob)] =
            [(&names[0], 0), (&names[1], 1000)].map(|(name, uid)| site.console(runtime, name, uid));
        let _leashes = [&first, &second].map(Leashed);
        for console in [&mut alice, &mut bob] {
            begin(console, ENDLESS);
        }
        let used = || names.each_ref().map(|name| used_ns(&site, name));
        // What each learns at first is not looked at.
        eventually("they have begun", || used().iter().sum::<u64>() > 400 * MS);
        let turns = passed(&arena);
        let mut shares = Vec::new();
        while shares.last().is_none_or(|share: &f64| (share - 75.0).abs() > 10.0) {
            assert!(shares.len() < ROUNDS, "{shares:?} where 75 was due ({runtime:?})");
            let before = used();
            eventually("they go on", || used().iter().sum::<u64>() > before.iter().sum::<u64>() + 1_500 * MS);
            let [of_alice, of_bob] = [0, 1].map(|number| used()[number] - before[number]);
            shares.push(100.0 * of_alice as f64 / (of_alice + of_bob) as f64);
        }
        assert!(passed(&arena) > turns + 10, "they take turns ({runtime:?})");
        first.kill();
        let left = used()[1];
        eventually("the other goes on", || used()[1] > left + 500 * MS);
    }
}
