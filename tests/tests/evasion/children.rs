//! Children of a tenant, however they begin: their memory is the tenant's.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES, TAKE};

/// How a child begins, as the console is told, and what it does to its environment before: at the level *advisory* the quota
/// rests on the environment, so what changes it is shown, and not covered.
const BEGINNINGS: [(&str, &str); 5] = [
    ("fork", ""),
    ("vfork", ""),
    ("posix_spawn", ""),
    ("posix_spawn", "unsetenv LD_PRELOAD"),
    ("posix_spawn", "setenv CUOTA_TENANT another"),
];

/// Lets a child of `console` take over: another process, in which the program begins anew.
fn begin(console: &mut Console, how: &str, before: &str) {
    if !before.is_empty() {
        let _ = console.ask(before);
    }
    match how {
        "fork" => {
            console.fork();
            console.exec();
        }
        other => {
            console.tell(&format!("spawn {other}"));
            let _ = console.ask("pid");
        }
    }
}

/// Half a GiB more than its parent left: `Err` with the status of what was refused.
fn take(console: &mut Console) -> Result<(), i64> {
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    let context = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]);
    if context.status != 0 {
        return Err(context.status);
    }
    let _ = console.call("cuCtxSetCurrent", &[Is(context.number(0))]).ok();
    console.alloc(TAKE).map(drop)
}

#[test]
fn child_takes_nothing_past_its_parents_quota() {
    println!("| a child that begins by | at the brim | with room |\n|---|---|---|");
    for (how, before) in BEGINNINGS {
        let mut ends = Vec::new();
        for room in [0, 2 * TAKE + 64 * MIB] {
            let machine = Machine::new();
            let mut console = machine.start("t", QUOTA);
            if room != 0 {
                console.alloc(room).map_or_else(
                    |_| panic!("an empty quota has room"),
                    |piece| {
                        console.fill(16 * MIB);
                        assert_eq!(console.free(piece), 0);
                    },
                );
            } else {
                console.fill(16 * MIB);
            }
            begin(&mut console, how, before);
            let end = take(&mut console);
            if before.is_empty() {
                assert!(machine.books("t").booked <= QUOTA_BYTES, "{how}: {:?}", machine.books("t"));
                assert_eq!(
                    end,
                    if room == 0 { Err(OUT_OF_MEMORY) } else { Ok(()) },
                    "{how}, {room} bytes of room"
                );
            }
            ends.push(end.err().map_or("granted".to_owned(), |status| format!("refused ({status})")));
            console.end_child();
            console.finish();
        }
        let note = if before.is_empty() {
            String::new()
        } else {
            format!(" after `{before}`: not covered at the level *advisory*")
        };
        println!("| {how}{note} | {} | {} |", ends[0], ends[1]);
    }
}
