//! Who is on the GPU beside the tenants that take turns.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use cuota_region::event::Event;
use cuota_region::hami::file::{Monitored, NOTHING};
use cuota_region::hami::own::Places;
use cuota_region::hami::variables::Variables;
use cuota_region::name::TenantName;
use cuota_region::tenant::Tenant;
use cuota_tests::machine::{Machine, Program, skip};
use cuota_tests::wait::eventually;

use crate::shares::{are_due, shares_by};
use crate::{ENDLESS, MS, Worker, arena_file, passed, tenant_in, used_ns};

/// Two tenants that have work without end, and their arena.
fn two_that_take_turns(machine: &Machine) -> ([Worker; 2], std::path::PathBuf) {
    let mut workers = ["a", "b"].map(|name| Worker::start(machine, name, &[], MS / 2));
    workers.iter_mut().for_each(|worker| worker.begin(ENDLESS));
    let arena = arena_file(machine).expect("tenants have begun");
    goes_on("they take turns", || passed(&arena));
    (workers, arena)
}

#[track_caller]
fn goes_on(what: &str, count: impl Fn() -> u64) {
    let before = count();
    eventually(what, || count() > before + 5);
}

/// Until nothing is counted for half a second.
#[track_caller]
fn stands_still(what: &str, count: impl Fn() -> u64) {
    let mut before = 0;
    eventually(what, || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        core::mem::replace(&mut before, count()) == before
    });
}

#[test]
fn beside_a_process_without_cuota_there_are_no_turns_until_it_is_gone() {
    let machine = Machine::new();
    let (workers, arena) = two_that_take_turns(&machine);
    let stranger = machine.native().start_with_context();
    stands_still("the turns end", || passed(&arena));
    // Nothing is counted any more, and nobody waits.
    let used = || workers[0].used_ns(&machine) + workers[1].used_ns(&machine);
    stands_still("nothing is counted", used);
    stranger.finish();
    goes_on("the turns come back", || passed(&arena));
    workers.into_iter().for_each(|worker| worker.console.kill());
}

#[test]
fn tenants_with_a_context_and_nothing_to_launch_are_no_strangers() {
    let machine = Machine::new();
    let idle = ["x", "y"].map(|tenant| Worker::start(&machine, tenant, &[], MS));
    let (workers, arena) = two_that_take_turns(&machine);
    // Longer than a round of looks, whose second each helper counts for itself.
    for _ in 0..15 {
        goes_on("they go on taking turns", || passed(&arena));
    }
    workers.into_iter().for_each(|worker| worker.console.kill());
    idle.into_iter().for_each(|worker| worker.console.finish());
}

#[test]
fn one_that_takes_no_turns_by_its_own_wish_is_a_stranger() {
    let machine = Machine::new();
    let (workers, arena) = two_that_take_turns(&machine);
    let other = machine.tenant_with("c", &[]).with("CUOTA_TURNS", "off").start_with_context();
    stands_still("the turns end", || passed(&arena));
    other.finish();
    goes_on("the turns come back", || passed(&arena));
    workers.into_iter().for_each(|worker| worker.console.kill());
}

#[test]
fn under_mps_there_are_no_turns() {
    let machine = Machine::new();
    let mut workers = ["a", "b"].map(|name| {
        let program = machine.tenant_with(name, &[]).with("CUOTA_SIM_MPS", "1");
        Worker::on(program.start_with_context(), name, MS / 2)
    });
    // The first is alone for a moment, and nobody is counted.
    workers.iter_mut().for_each(|worker| worker.work(200));
    assert_eq!(workers.each_ref().map(|worker| worker.used_ns(&machine)), [0, 0]);
    let arena = arena_file(&machine).expect("tenants have begun");
    assert_eq!(passed(&arena), 0);
    workers.into_iter().for_each(|worker| worker.console.finish());
}

/// What HAMi's device plugin gives to each container of a machine.
const SHARED: &str = "/tmp/vgpulock";

/// A program of a container of HAMi's, with a folder of the machine's in the place of the shared one, and a `/dev/shm` that goes with the
/// machine, for the container's books. `None`: that cannot be mounted here.
fn of_hami(machine: &Machine, folder: &Path, cache: &str, turns: Option<&str>) -> Option<Program> {
    let [shown, memory] = ["vgpulock", "shm"].map(|name| machine.region().join(name));
    for folder in [&shown, &memory] {
        std::fs::create_dir_all(folder).expect("the folder is ours");
    }
    let script = format!(
        "mount --bind {} {SHARED} && mount --bind {} /dev/shm && exec \"$@\"",
        shown.display(),
        memory.display()
    );
    let wrap = ["--mount", "--", "sh", "-c", &script, "sh"];
    std::fs::create_dir_all(SHARED).ok()?;
    let tried = Command::new("unshare").args(wrap).arg("true").status();
    if !tried.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut program = machine.native_of(Path::new("unshare"));
    let preload = format!("LD_PRELOAD={}", machine.library().display());
    let console = cuota_tests::build::program("console");
    program.command().args(wrap).args(["env", &preload]).arg(console);
    let program = program
        .with("CUDA_DEVICE_MEMORY_LIMIT_0", "2048m")
        .with("CUDA_DEVICE_MEMORY_SHARED_CACHE", folder.join(cache));
    Some(turns.into_iter().fold(program, |program, turns| program.with("CUOTA_TURNS", turns)))
}

#[test]
fn containers_of_hamis_take_turns_where_they_say_so() {
    let machine = Machine::new();
    let folder = machine.region();
    let start = |name: &str, turns| {
        let program = of_hami(&machine, &folder, &format!("{name}.cache"), turns)?;
        Some(Worker::on(program.start_with_context(), name, MS / 2))
    };
    let (Some(mut first), Some(mut second)) = (start("a", Some("on")), start("b", Some("on"))) else {
        return skip("mount namespaces are needed");
    };
    first.begin(ENDLESS);
    second.begin(ENDLESS);
    let shared = folder.join("vgpulock");
    let file =
        std::fs::read_dir(&shared).expect("it is there").next().expect("an arena").expect("it is ours");
    goes_on("they take turns", || passed(&file.path()));
    first.console.kill();
    second.console.kill();
    std::fs::remove_file(file.path()).expect("it is ours");
    let mut alone = start("c", None).expect("as before");
    alone.work(20);
    alone.console.finish();
    assert!(std::fs::read_dir(shared).expect("it is there").next().is_none(), "nobody asked for it");
}

/// The file of a container's one tenant, whose memory is a folder of the machine's.
#[track_caller]
fn tenant_of_hami(machine: &Machine, cache: &Path) -> Tenant {
    let places = Places::of(cache.as_os_str().as_bytes()).expect("the folder is there");
    let place = places.at(0).expect("a short path");
    let name = std::str::from_utf8(place.as_bytes()).expect("ASCII").strip_prefix("/dev/shm/");
    tenant_in(&machine.region().join("shm").join(name.expect("in memory")), &TenantName::DEFAULT)
}

/// A container with FCSP's variables beside one that asks for nothing gets so much, per cent, once its share is `live` in the monitor's
/// file.
#[track_caller]
fn beside_another_fcsp_has(variables: &[(&str, &str)], live: Option<u32>, due: f64) {
    if of_hami(&Machine::new(), Path::new("/"), "x", None).is_none() {
        return skip("mount namespaces are needed");
    }
    are_due(&[due, 100.0 - due], || {
        let machine = Machine::new();
        let folder = machine.region();
        let cache = |name: &str| folder.join(format!("{name}.cache"));
        let start = |name: &str, variables: &[(&str, &str)]| {
            let program =
                of_hami(&machine, &folder, &format!("{name}.cache"), Some("on")).expect("as before");
            let program = variables.iter().fold(program, |program, (name, value)| program.with(name, value));
            Worker::on(program.start_with_context(), name, MS / 2)
        };
        let workers = vec![start("a", variables), start("b", &[])];
        let events = tenant_of_hami(&machine, &cache("a")).events().entries().map(|entry| entry.event);
        assert_eq!(events.filter(|event| matches!(event, Event::Setting { .. })).collect::<Vec<_>>(), []);
        let path = cache("a");
        let file = Monitored::open(path.as_os_str().as_bytes(), &Variables::none(), NOTHING);
        live.into_iter().for_each(|percent| file.expect("it is there").set_compute(0, percent));
        shares_by(|worker| used_ns(&tenant_of_hami(&machine, &cache(&worker.tenant))), workers)
    });
}

#[test]
fn share_that_fcsp_balances_is_kept_and_goes_beyond() {
    // 60 and half of what nobody is guaranteed; as a cap beside one with the same weight it would be 50.
    let asked = [("BUD_SM_LIMIT", "60"), ("BUD_ISOLATION_MODE", "balanced"), ("BUD_BURST_MAX_PCT", "40")];
    beside_another_fcsp_has(&asked, None, 80.0);
}

#[test]
fn adaptive_share_of_fcsp_is_kept_and_follows_the_monitors_file() {
    let asked = [("BUD_SM_LIMIT", "30"), ("BUD_ISOLATION_MODE", "adaptive")];
    beside_another_fcsp_has(&asked, Some(75), 75.0);
}

#[test]
fn ps_and_doctor_say_who_takes_turns_and_who_ends_them() {
    let machine = Machine::new();
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(cuota_tests::build::command());
        command.env("CUOTA_DIR", machine.region()).env("CUOTA_SIM_DIR", machine.gpu_folder());
        command.env("CUOTA_SIM_LIB", cuota_tests::build::software_gpu());
        let output = command.args(arguments).output().expect("the command runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (workers, arena) = two_that_take_turns(&machine);
    eventually("both have had a turn", || ask(&["ps", "--json"]).matches(r#""turns": "taken""#).count() == 2);
    assert!(ask(&["doctor", "--sim"]).contains("2 tenants have a seat"));
    let stranger = machine.native().start_with_context();
    stands_still("the turns end", || passed(&arena));
    assert_eq!(ask(&["ps", "--json"]).matches(r#""turns": "off""#).count(), 2);
    assert!(ask(&["doctor", "--sim"]).contains("takes no turns, or MPS is on"));
    stranger.finish();
    workers.into_iter().for_each(|worker| worker.console.kill());
}
