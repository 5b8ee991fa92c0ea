//! A sibling in the tenant that takes memory, hands it over and is killed, again and again: what it leaves behind stays the
//! tenant's.

use cuota_tests::console::Console;

use super::imports::{end, exported, exported_pool, import, import_pool};
use super::{Row, trick};
use crate::attempt::{Attempt, Ended};

/// How many siblings in turn.
const SIBLINGS: u32 = 3;

pub(super) const ROWS: &[Row] = &[
    trick("a sibling's exported memory, handed over by three who are killed", |t| {
        in_turn(t, |t, sibling| {
            let descriptor = exported(t, sibling)?;
            import(t, descriptor).map(|_| descriptor)
        })
    }),
    trick("a sibling's full pool, handed over by three who are killed", |t| {
        in_turn(t, |t, sibling| {
            let (descriptor, _) = exported_pool(t, sibling)?;
            import_pool(t, descriptor).map(|_| descriptor)
        })
    }),
];

/// Lets siblings in turn `hand_over` what they have, which gives the tenant's descriptor of it; then takes the rest of the quota.
fn in_turn(
    t: &mut Attempt<'_>,
    hand_over: impl Fn(&mut Attempt<'_>, &mut Console) -> Result<u64, i64>,
) -> Ended {
    // A context that has grown by what other rows launched leaves no room for siblings.
    t.renew();
    t.empty();
    for _ in 0..SIBLINGS {
        let mut sibling = t.sibling()?;
        let descriptor = hand_over(t, &mut sibling)?;
        end(t, sibling, descriptor);
    }
    t.refill();
    Ok(())
}
