//! PTX, read just far enough: the names of kernels and variables, the sizes of parameters, the local memory of kernels, whether
//! they call `malloc` or `vprintf`, and what a comment before a kernel says of its cost.
//!
//! ```text
//! // cuota-sim: cost_ns=100000 sms=132
//! .visible .entry burn(.param .u64 burn_param_0) { ret; }
//! ```
//!
//! | key | meaning |
//! |---|---|
//! | `cost_ns=N` | the kernel takes N nanoseconds by itself; without it 10,000 |
//! | `spin_arg=N` | its cost in nanoseconds is its argument N, counted from 0 |
//! | `sms=N` | it takes N multiprocessors; without it as many as it has blocks, 132 at most |
//! | `wait_flag_arg=N` | it ends when the 32-bit word at argument N's address is not zero; it takes one multiprocessor unless `sms` says more |
//! | `set_flag_arg=N` | at its end it writes 1 to the 32-bit word at argument N's address |
//! | `fault=1` | it ends with an illegal address |

mod body;

pub use body::Needs;

use body::Body;
use std::collections::HashMap;

/// What a kernel without a comment takes.
pub const UNKNOWN_COST_NS: u64 = 10_000;
const MARK: &str = "// cuota-sim:";

/// Where a parameter lies in the kernel's parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// What the comment says, by key.
    pub said: HashMap<String, u64>,
    /// What it takes of its context.
    pub needs: Needs,
}

/// A variable in device memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Its kernels.
    pub kernels: Vec<Kernel>,
    /// Its variables.
    pub variables: Vec<Variable>,
}

/// Reads PTX; `None` where the text is none.
#[must_use]
pub fn parse(text: &str) -> Option<Program> {
    let has_version = text.lines().any(|line| line.trim_start().starts_with(".version"));
    if !has_version {
        return None;
    }
    let mut program = Program::default();
    let mut said = HashMap::new();
    let (mut bodies, mut functions) = (Vec::new(), HashMap::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix(MARK) {
            said = comment.split_whitespace().filter_map(pair).collect();
        } else if let Some((_, head)) = line.split_once(".entry") {
            let (head, text) = body::split(head, &mut lines);
            program.kernels.push(kernel(&head, std::mem::take(&mut said)));
            bodies.push(Body::read(&text));
        } else if let Some((_, head)) = line.split_once(".func") {
            let (head, text) = body::split(head, &mut lines);
            functions.extend(body::function_name(&head).map(|name| (name.to_owned(), Body::read(&text))));
        } else if line.starts_with(".global") || line.starts_with(".visible .global") {
            program.variables.extend(variable(line));
        }
    }
    for (kernel, body) in program.kernels.iter_mut().zip(&bodies) {
        kernel.needs = body.needs(&functions, &mut Vec::new());
    }
    Some(program)
}

fn pair(text: &str) -> Option<(String, u64)> {
    let (key, value) = text.split_once('=')?;
    Some((key.to_owned(), value.parse().ok()?))
}

fn kernel(head: &str, said: HashMap<String, u64>) -> Kernel {
    let (name, rest) = head.split_once(['(', '{']).unwrap_or((head, ""));
    let list = if head.contains('(') { rest.split(')').next().unwrap_or_default() } else { "" };
    let mut parameters: Vec<Parameter> = Vec::new();
    for declared in list.split(',').filter(|p| !p.trim().is_empty()) {
        let (bytes, alignment) = size(declared);
        let end = parameters.last().map_or(0, |p| p.offset + p.bytes);
        parameters.push(Parameter { offset: end.next_multiple_of(alignment), bytes });
    }
    Kernel { name: name.trim().to_owned(), parameters, said, needs: Needs::default() }
}

fn variable(line: &str) -> Option<Variable> {
    let declared = line.split(['=', ';']).next()?;
    let last = declared.split_whitespace().last()?;
    let name = last.split('[').next()?.to_owned();
    Some(Variable { name, bytes: size(declared).0 })
}

/// Size and alignment of a declaration like `.param .align 8 .b8 name[32]` or `.param .u64 name`.
fn size(declared: &str) -> (u64, u64) {
    let mut element = 8;
    let mut alignment = None;
    let mut words = declared.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word == ".align" {
            alignment = words.peek().and_then(|w| w.parse().ok());
        } else if let Some(bits) = word
            .strip_prefix(['.'])
            .and_then(|w| w.trim_start_matches(['u', 's', 'b', 'f']).parse::<u64>().ok())
        {
            element = bits.div_ceil(8);
        }
    }
    let count =
        declared.split_once('[').and_then(|(_, rest)| rest.split(']').next()?.trim().parse::<u64>().ok());
    let alignment = alignment.filter(|&a: &u64| a > 0).unwrap_or(element.max(1));
    (element * count.unwrap_or(1), alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .global .align 4 .b8 table[64];
.global .u32 counter = 5;
// cuota-sim: cost_ns=100000 sms=66
.visible .entry burn(
    .param .u32 burn_param_0,
    .param .u64 burn_param_1,
    .param .align 8 .b8 burn_param_2[24]
)
{
    ret;
}
.visible .entry plain() { ret; }
";

    #[test]
    fn kernels_have_names_costs_and_parameters() {
        let program = parse(TEXT).expect("PTX");
        let burn = &program.kernels[0];
        assert_eq!((burn.name.as_str(), burn.said["cost_ns"], burn.said["sms"]), ("burn", 100_000, 66));
        let places: Vec<(u64, u64)> = burn.parameters.iter().map(|p| (p.offset, p.bytes)).collect();
        assert_eq!(places, [(0, 4), (8, 8), (16, 24)]);
        assert_eq!((program.kernels[1].name.as_str(), program.kernels[1].said.len()), ("plain", 0));
    }

    #[test]
    fn variables_have_names_and_sizes() {
        let sizes: Vec<(String, u64)> =
            parse(TEXT).expect("PTX").variables.into_iter().map(|v| (v.name, v.bytes)).collect();
        assert_eq!(sizes, [("table".to_owned(), 64), ("counter".to_owned(), 4)]);
    }

    const CALLS: &str = "
.version 8.0
.extern .func (.param .b64 func_retval0) malloc
(
    .param .b64 malloc_param_0
)
;
.extern .func (.param .b32 func_retval0) vprintf (.param .b64 a, .param .b64 b);
.func (.param .b64 func_retval0) grab(.param .b64 bytes)
{
    .local .align 16 .b8 __local_depot0[40];
    { // callseq 0, 0
    call.uni (retval0),
    malloc,
    (param0);
    } // callseq 0
    ret;
}
.visible .entry large() .maxntid 64, 1, 1
{
    .local .align 16 .b8 \t__local_depot1[4096];
    .local .align 4 .u32 more;
    call.uni (retval0), grab, (param0);
}
.visible .entry small() { ret; }
.visible .entry speaks() { call.uni (r), vprintf, (a, b); }
";

    #[test]
    fn a_kernel_needs_what_the_functions_that_it_calls_need() {
        let program = parse(CALLS).expect("PTX");
        let needs: Vec<Needs> = program.kernels.iter().map(|k| k.needs).collect();
        let none = Needs::default();
        let large = Needs { local_bytes: 4096 + 4 + 40, heap: true, printf: false };
        assert_eq!(needs, [large, none, Needs { printf: true, ..none }]);
    }

    #[test]
    fn a_text_without_a_version_is_no_ptx() {
        assert_eq!(parse("hello"), None);
    }
}
