//! Who takes turns on the GPUs.

use super::report::{Check, Mark};
use crate::home::Home;
use crate::turns::Turns;

/// Looks into each arena of the directory; nothing to say where nobody takes turns.
pub(crate) fn look(home: &Home) -> Vec<Check> {
    let files = std::fs::read_dir(home.path().join("arena")).into_iter().flatten().flatten();
    let arenas =
        files.filter_map(|file| Some((file.file_name().into_string().ok()?, Turns::in_file(&file.path())?)));
    let mut checks: Vec<Check> =
        arenas.filter_map(|(name, turns)| check(name.strip_suffix(".v1")?, &turns)).collect();
    checks.sort_by(|a, b| a.found.cmp(&b.found));
    checks
}

fn check(gpu: &str, turns: &Turns) -> Option<Check> {
    let (here, sight) = (turns.here(), &turns.sight);
    let seats = match here {
        0 => return None,
        1 => "one tenant has a seat, alone".to_owned(),
        several => format!("{several} tenants have a seat"),
    };
    let text = format!(
        "GPU {gpu}: {seats}; {} turns passed, {} ended by others, {} words made no sense",
        sight.passed, sight.ended, sight.rubbish
    );
    let off = here > 1 && turns.are_off();
    Some(match off {
        false => Check::ok("cuota", "turns", text),
        true => Check::not_ok(
            Mark::Warning,
            "cuota",
            "turns",
            format!("{text}; none is taken: a process on this GPU takes no turns, or MPS is on"),
            "guarantees, weights and priorities hold again when it is gone, or runs under cuota",
        ),
    })
}
