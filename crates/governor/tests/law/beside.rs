//! Beside other processes: what an argument decides is paid for, and nobody pays for what a neighbour does.

use crate::model::{Op, Script, World};
use crate::{MS, SECOND, launch};

/// Its name, and its script on this stream.
type Program = (&'static str, fn(usize) -> Script);

const SPAN_NS: u64 = 3 * SECOND;

/// Kernels of one function and one shape, each waited for: what they cost is in an argument.
fn waited_for(stream: usize, costs_ns: &'static [u64]) -> Script {
    Box::new(move |step| match step % 2 {
        0 => launch(stream, 1, costs_ns[usize::try_from(step / 2).unwrap_or(0) % costs_ns.len()]),
        _ => Op::Sync { stream },
    })
}

fn without_pause(stream: usize, cost_ns: u64) -> Script {
    Box::new(move |_| launch(stream, 1, cost_ns))
}

/// Bursts of so many kernels of so long, each burst waited for, with a pause behind it.
fn in_bursts(stream: usize, count: u64, cost_ns: u64, pause_ns: u64) -> Script {
    Box::new(move |step| match step % (count + 2) {
        n if n < count => launch(stream, 1, cost_ns),
        n if n == count => Op::Sync { stream },
        _ => Op::Host(pause_ns),
    })
}

/// A process of the tenant `tenant` beside so many strangers, or alone at first, with this program on a stream of its own.
fn process(
    world: &mut World,
    tenant: usize,
    strangers: impl Into<Option<u32>>,
    program: &dyn Fn(usize) -> Script,
) -> usize {
    let process = world.process(tenant, true, strangers.into());
    let stream = world.gpu.stream(process);
    world.thread(process, program(stream));
    process
}

/// A process that no cap binds.
fn neighbour(world: &mut World, program: &dyn Fn(usize) -> Script) {
    let free = world.tenant(1_000_000);
    let process = world.process(free, false, None);
    let stream = world.gpu.stream(process);
    world.thread(process, program(stream));
}

/// Work done by these processes together, and what the tenant was charged, in [`SPAN_NS`] after a second, as parts of it.
fn share(world: &mut World, processes: &[usize], tenant: usize) -> (f64, f64) {
    let work = |world: &World| processes.iter().map(|&p| world.gpu.truth(p).work_ns).sum::<f64>();
    world.run_until(world.now_ns + SECOND);
    let (before, charged) = (work(world), world.tenants[tenant].used_ns);
    world.run_until(world.now_ns + SPAN_NS);
    let charged = world.tenants[tenant].used_ns - charged;
    ((work(world) - before) / SPAN_NS as f64, charged as f64 / SPAN_NS as f64)
}

/// Costs that one shape has in turn: those of the short ones are learned.
const DECEITFUL: [&[u64]; 4] =
    [&[50 * MS, 1_000, 1_000, 1_000], &[2 * MS, 1_000], &[500_000, 1_000], &[300_000, 100_000, 200_000]];

#[test]
fn beside_idle_processes_of_its_own_a_tenant_gets_its_cap_whatever_an_argument_decides() {
    for costs_ns in DECEITFUL {
        for helper in [true, false] {
            let mut world = World::new(helper);
            let tenant = world.tenant(100_000);
            let process = process(&mut world, tenant, 0, &|stream| waited_for(stream, costs_ns));
            let (share, _) = share(&mut world, &[process], tenant);
            println!("{share:.3} with {costs_ns:?}");
            assert!((0.09..=0.108).contains(&share), "{share} with {costs_ns:?}");
        }
    }
}

#[test]
fn beside_idle_strangers_a_tenant_gets_no_more_than_its_cap_for_each_process_and_an_eighth() {
    for costs_ns in DECEITFUL {
        for strangers in [1, 3] {
            let mut world = World::new(true);
            let tenant = world.tenant(100_000);
            let process = process(&mut world, tenant, strangers, &|stream| waited_for(stream, costs_ns));
            let (share, _) = share(&mut world, &[process], tenant);
            println!("{share:.3} beside {strangers} with {costs_ns:?}");
            let most = 0.1 * f64::from(strangers + 1) * 8.0 / 7.0;
            assert!(share <= most + 0.008, "{share} of {most} with {costs_ns:?}");
        }
    }
}

#[test]
fn beside_busy_processes_of_its_own_a_tenant_gets_no_more_than_twice_its_cap() {
    for costs_ns in DECEITFUL {
        let mut world = World::new(true);
        let tenant = world.tenant(100_000);
        let mut processes = vec![process(&mut world, tenant, 0, &|stream| without_pause(stream, 100_000))];
        for _ in 0..2 {
            processes.push(process(&mut world, tenant, 0, &|stream| waited_for(stream, costs_ns)));
        }
        let (share, _) = share(&mut world, &processes, tenant);
        println!("{share:.3} with {costs_ns:?}");
        assert!(share <= 0.2, "{share} with {costs_ns:?}");
    }
}

/// Each hides what it takes, and is believed to have had less for what the others pay; the strangers do nothing.
#[test]
fn beside_idle_strangers_and_busy_processes_of_its_own_a_tenant_gets_no_more_than_its_cap_for_each_and_an_eighth()
 {
    for costs_ns in DECEITFUL {
        for (own, strangers) in [(2, 1), (3, 1), (3, 2)] {
            let mut world = World::new(true);
            let tenant = world.tenant(100_000);
            let program = |stream| waited_for(stream, costs_ns);
            let processes: Vec<usize> =
                (0..own).map(|_| process(&mut world, tenant, strangers, &program)).collect();
            let (share, _) = share(&mut world, &processes, tenant);
            println!("{share:.3}: {own} beside {strangers} with {costs_ns:?}");
            let most = 0.1 * f64::from(own + strangers) * 8.0 / 7.0;
            assert!(share <= most + 0.008, "{share} of {most}: {own} beside {strangers} with {costs_ns:?}");
        }
    }
}

#[test]
fn processes_of_a_tenant_beside_busy_strangers_do_not_pay_for_one_another() {
    for (own, strangers, cap_ppm) in [(2, 1, 900_000), (3, 1, 900_000), (2, 3, 900_000), (2, 1, 100_000)] {
        let mut world = World::new(true);
        let tenant = world.tenant(cap_ppm);
        let program = |stream| without_pause(stream, 100_000);
        let processes: Vec<usize> = (0..own).map(|_| process(&mut world, tenant, None, &program)).collect();
        world.run_until(200 * MS);
        for &process in &processes {
            world.guests[process].1.strangers = Some(strangers);
        }
        (0..strangers).for_each(|_| neighbour(&mut world, &program));
        let (share, charged) = share(&mut world, &processes, tenant);
        println!("{own} beside {strangers}, cap {cap_ppm}: charged {charged:.4} for {share:.4}");
        assert!(charged <= share * 1.05, "{charged} for {share}: {own} beside {strangers}, cap {cap_ppm}");
    }
}

#[test]
fn beside_busy_strangers_nobody_pays_for_what_they_do() {
    let own: [Program; 6] = [
        ("20 us", |stream| without_pause(stream, 20_000)),
        ("100 us", |stream| without_pause(stream, 100_000)),
        ("1 ms", |stream| without_pause(stream, MS)),
        ("100 us, waited for", |stream| waited_for(stream, &[100_000])),
        ("20 of 5 us and 1 ms", |stream| in_bursts(stream, 20, 5_000, MS)),
        ("3 of 20 us, 0.4 ms", |stream| {
            Box::new(move |step| if step % 4 < 3 { launch(stream, 1, 20_000) } else { Op::Host(400_000) })
        }),
    ];
    let theirs: [Program; 4] = [
        ("nothing", |_| Box::new(|_| Op::End)),
        ("100 us", |stream| without_pause(stream, 100_000)),
        ("5 ms", |stream| without_pause(stream, 5 * MS)),
        ("10 of 20 us and 1 ms", |stream| in_bursts(stream, 10, 20_000, MS)),
    ];
    let (mut table, mut worst) = (String::new(), 0.0_f64);
    for (name, program) in own {
        for (their_name, their_program) in theirs {
            for (strangers, cap_ppm) in [(1, 100_000), (1, 900_000), (3, 400_000)] {
                let mut world = World::new(true);
                let tenant = world.tenant(cap_ppm);
                // It learns what its kernels take before the others come.
                let process = process(&mut world, tenant, None, &program);
                world.run_until(200 * MS);
                world.guests[process].1.strangers = Some(strangers);
                (0..strangers).for_each(|_| neighbour(&mut world, &their_program));
                let (share, charged) = share(&mut world, &[process], tenant);
                table += &format!(
                    "{name:20} beside {strangers} of {their_name:20} cap {cap_ppm:6}: charged {charged:.4} for {share:.4}, {:.3}\n",
                    charged / share
                );
                worst = worst.max(charged / share);
            }
        }
    }
    assert!(worst <= 1.05, "{worst}\n{table}");
    println!("{table}");
}

#[test]
fn processes_of_a_tenant_do_not_pay_for_one_another() {
    let pairs: [(u64, u64); 5] =
        [(100_000, 100_000), (20_000, MS), (MS, MS), (100_000, 20 * MS), (20 * MS, 20 * MS)];
    let (mut table, mut worst) = (String::new(), 0.0_f64);
    for (first_ns, second_ns) in pairs {
        for cap_ppm in [100_000, 900_000] {
            let mut world = World::new(true);
            let tenant = world.tenant(cap_ppm);
            let processes = [first_ns, second_ns]
                .map(|cost_ns| process(&mut world, tenant, 0, &|stream| without_pause(stream, cost_ns)));
            let (share, charged) = share(&mut world, &processes, tenant);
            table += &format!(
                "{first_ns} and {second_ns}, cap {cap_ppm}: charged {charged:.4} for {share:.4}, {:.3}\n",
                charged / share
            );
            worst = worst.max(charged / share);
        }
    }
    assert!(worst <= 1.02, "{worst}\n{table}");
    println!("{table}");
}
