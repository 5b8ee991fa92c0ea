//! Every way to put work on the GPU is charged.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::machine::{MIB, Machine};

use crate::{MS, Worker, eventually, meter};

/// How often each way is taken, and how long its kernel takes.
const COUNT: u64 = 40;

/// `CUlaunchConfig` for one thread on `stream`, without attributes.
fn config(stream: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [1_u32, 1, 1, 1, 1, 1, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.extend(stream.to_le_bytes());
    bytes.extend([0; 16]);
    bytes
}

/// Takes a way `COUNT` times under a cap; what it put on the GPU, ns, must be in the books.
#[track_caller]
fn is_charged(way: &str, least_ns: u64, take: &dyn Fn(&mut Worker)) {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", MS);
    take(&mut worker);
    worker.console.synchronize();
    // The next look, or the helper, settles what is in flight.
    eventually(way, || meter(&machine, "t").0 >= least_ns);
    worker.console.finish();
}

#[track_caller]
fn kernels_are_charged(way: &str, take: impl Fn(&mut Worker) -> (String, Vec<u64>)) {
    is_charged(way, COUNT * MS * 9 / 10, &|worker| {
        let (name, numbers) = take(worker);
        let arguments: Vec<_> = numbers.into_iter().map(Is).collect();
        let (status, done) = worker.console.repeat(COUNT, &name, &arguments);
        assert_eq!((status, done), (0, COUNT), "{way}");
    });
}

#[test]
fn launches_of_every_form_are_charged() {
    for name in [
        "cuLaunchKernel",
        "cuLaunchKernel_ptsz",
        "cuLaunchCooperativeKernel",
        "cuLaunchCooperativeKernel_ptsz",
    ] {
        kernels_are_charged(name, |worker| {
            let mut numbers = vec![worker.function, 1, 1, 1, 1, 1, 1, 0, worker.stream, 0];
            if !name.contains("Cooperative") {
                numbers.push(0);
            }
            (name.to_owned(), numbers)
        });
    }
    for stream in [0, 1, 2] {
        kernels_are_charged("the default streams", |worker| {
            ("cuLaunchKernel".to_owned(), vec![worker.function, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0])
        });
    }
}

#[test]
fn launches_with_a_configuration_are_charged() {
    is_charged("cuLaunchKernelEx", COUNT * MS * 9 / 10, &|worker| {
        let config = config(worker.stream);
        let arguments = [At(&config), Is(worker.function), Is(0), Is(0)];
        assert_eq!(worker.console.repeat(COUNT, "cuLaunchKernelEx", &arguments), (0, COUNT));
    });
}

#[test]
fn launches_of_old_forms_are_charged() {
    let shape = |worker: &mut Worker| {
        let arguments = [Is(worker.function), Is(1), Is(1), Is(1)];
        let _ = worker.console.call("cuFuncSetBlockShape", &arguments).ok();
    };
    kernels_are_charged("cuLaunch", |worker| {
        shape(worker);
        ("cuLaunch".to_owned(), vec![worker.function])
    });
    kernels_are_charged("cuLaunchGrid", |worker| {
        shape(worker);
        ("cuLaunchGrid".to_owned(), vec![worker.function, 1, 1])
    });
    kernels_are_charged("cuLaunchGridAsync", |worker| {
        shape(worker);
        ("cuLaunchGridAsync".to_owned(), vec![worker.function, 1, 1, worker.stream])
    });
}

#[test]
fn graphs_are_charged_when_they_are_launched() {
    kernels_are_charged("cuGraphLaunch", |worker| {
        let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(worker.stream), Is(2)]).ok();
        worker.launch(1);
        let graph = worker.console.call("cuStreamEndCapture", &[Is(worker.stream), Out(8)]).ok().number(0);
        let executable =
            worker.console.call("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(0)]).ok().number(0);
        ("cuGraphLaunch".to_owned(), vec![executable, worker.stream])
    });
}

#[test]
fn fills_and_copies_within_the_device_are_charged() {
    // Some 0.1 ms and more each: 64 MiB at no more than 5 TB/s, read and written.
    const BYTES: u64 = 64 * MIB;
    let least_ns = COUNT * 10_000;
    is_charged("cuMemsetD8Async", least_ns, &|worker| {
        let memory = worker.console.alloc(BYTES).expect("64 MiB");
        let arguments = [Is(memory), Is(7), Is(BYTES), Is(worker.stream)];
        assert_eq!(worker.console.repeat(COUNT, "cuMemsetD8Async", &arguments), (0, COUNT));
    });
    for name in ["cuMemcpyDtoDAsync_v2", "cuMemcpyAsync"] {
        is_charged(name, least_ns, &|worker| {
            let (from, to) =
                (worker.console.alloc(BYTES).expect("64 MiB"), worker.console.alloc(BYTES).expect("64 MiB"));
            let arguments = [Is(to), Is(from), Is(BYTES), Is(worker.stream)];
            assert_eq!(worker.console.repeat(COUNT, name, &arguments), (0, COUNT));
        });
    }
}

#[test]
fn copies_from_the_host_are_no_gpu_time() {
    const BYTES: usize = 4096;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", MS);
    let memory = worker.console.alloc(BYTES as u64).expect("a page");
    let bytes = [7; BYTES];
    let arguments = [Is(memory), At(&bytes), Is(BYTES as u64), Is(worker.stream)];
    assert_eq!(worker.console.repeat(200, "cuMemcpyHtoDAsync_v2", &arguments), (0, 200));
    worker.console.synchronize();
    assert_eq!(meter(&machine, "t").0, 0);
    worker.console.finish();
}
