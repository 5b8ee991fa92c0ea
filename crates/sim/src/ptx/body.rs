//! The bodies of PTX functions, read for two things: the local memory of a thread, and who calls whom.

use super::size;
use std::collections::HashMap;

/// The device's own allocator, which takes its memory from the context's heap.
const MALLOC: &str = "malloc";
/// The device's `printf`, which writes into the context's FIFO.
const PRINTF: &str = "vprintf";

/// What a kernel takes of its context beside its arguments, the functions that it calls counted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Local memory of a thread, in bytes.
    pub local_bytes: u64,
    /// Whether it calls `malloc`.
    pub heap: bool,
    /// Whether it calls `vprintf`.
    pub printf: bool,
}

/// One function's own part.
#[derive(Debug, Default)]
pub(super) struct Body {
    local_bytes: u64,
    /// Every word of it that could be a name.
    words: Vec<String>,
}

impl Body {
    pub(super) fn read(text: &str) -> Self {
        let mut local_bytes: u64 = 0;
        for statement in text.split([';', '{', '}']).filter(|s| s.trim_start().starts_with(".local")) {
            let (bytes, alignment) = size(statement);
            local_bytes = local_bytes.next_multiple_of(alignment).saturating_add(bytes);
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
        let words = text.split(|c| !is_name(c)).filter(|w| !w.is_empty()).map(str::to_owned).collect();
        Self { local_bytes, words }
    }

    /// What it needs together with the functions of `all` that it names. A function that calls itself counts once: how deep it
    /// goes is the stack limit's matter.
    pub(super) fn needs<'a>(&'a self, all: &'a HashMap<String, Self>, callers: &mut Vec<&'a str>) -> Needs {
        let mut needs = Needs { local_bytes: self.local_bytes, ..Needs::default() };
        let mut deepest_bytes = 0;
        for (name, body) in self.words.iter().filter_map(|word| all.get_key_value(word)) {
            if callers.contains(&name.as_str()) {
                continue;
            }
            callers.push(name);
            let called = body.needs(all, callers);
            callers.pop();
            deepest_bytes = deepest_bytes.max(called.local_bytes);
            needs.heap |= called.heap || name == MALLOC;
            needs.printf |= called.printf || name == PRINTF;
        }
        needs.local_bytes = needs.local_bytes.saturating_add(deepest_bytes);
        needs
    }
}

/// The head and the body of a function whose text begins with `first`: the head ends at a brace, or at the semicolon of a
/// mere declaration, and the body where that brace is closed.
pub(super) fn split<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> (String, String) {
    let (mut head, mut body, mut depth) = (String::new(), String::new(), 0_u32);
    let mut line = first;
    loop {
        let code = line.split("//").next().unwrap_or_default();
        for letter in code.chars() {
            match letter {
                ';' if depth == 0 => return (head, body),
                '{' => depth += 1,
                '}' if depth <= 1 => return (head, body),
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 { head.push(letter) } else { body.push(letter) }
        }
        head.push(' ');
        body.push(' ');
        let Some(next) = lines.next() else { return (head, body) };
        line = next;
    }
}

/// The name in the text after `.func`, which may begin with what the function returns.
pub(super) fn function_name(head: &str) -> Option<&str> {
    let head = head.trim_start();
    let rest = if head.starts_with('(') { head.split_once(')')?.1 } else { head };
    rest.split(|c: char| c == '(' || c.is_whitespace()).find(|word| !word.is_empty())
}
