//! A guest that makes the driver's calls as it is told to, one by one, so that a test can look at the books in between.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::code::PRINTED;

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A number, or a handle or an address that an earlier call gave.
    Is(u64),
    /// A pointer to as many zeros, bytes, for the call to write to.
    Out(usize),
    /// A pointer to these bytes, which the call may change.
    At(&'a [u8]),
    /// A pointer to a text without spaces.
    Text(&'a str),
    /// A kernel's parameters: an array of one pointer, to these bytes.
    Parameter(&'a [u8]),
}

/// What a call answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What it returned.
    pub status: i64,
    /// What stood behind each pointer afterwards.
    pub wrote: Vec<Vec<u8>>,
}

impl Answer {
    /// The number behind the pointer with this place among the pointers: its first eight bytes, or fewer where it has
    /// fewer.
    pub fn number(&self, place: usize) -> u64 {
        let mut eight = [0; 8];
        eight.iter_mut().zip(&self.wrote[place]).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(eight)
    }

    /// The answer of a call that must succeed.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "the call must succeed");
        self
    }
}

/// The guest `guests/console.c`, running.
pub struct Console {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    observer: Observer,
    /// What it was told last, to be named if it does not answer.
    told: String,
}

/// How much of a line is named, characters: code that it is to load is long.
const NAMED: usize = 120;

/// A console outside of any tenant, started when it is first needed: it sees the device as it is, while NVML shows a tenant
/// what it is meant to see.
#[derive(Clone)]
pub struct Observer(Arc<LazyLock<Mutex<Console>, Start>>);

/// Starts an observer.
type Start = Box<dyn FnOnce() -> Mutex<Console> + Send>;

impl Observer {
    /// An observer that `start` starts.
    pub fn new(start: impl FnOnce() -> Console + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(|| Mutex::new(start())))))
    }

    /// The console.
    pub fn console(&self) -> MutexGuard<'_, Console> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Starts a command that is, or becomes, the console.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::observed(command, Observer::new(|| panic!("an observer is not observed")))
    }

    /// As [`Self::start`], with somebody who says what the device has for it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn observed(command: &mut Command, observer: Observer) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("its output is a pipe"));
        Self { child, input, output: BufReader::new(output), observer, told: String::new() }
    }

    /// Who sees the device as it is.
    pub(crate) fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something without waiting for the answer.
    ///
    /// # Panics
    /// If it is gone.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        self.told = line.chars().take(NAMED).collect();
        let input = self.input.as_mut().expect("it was not finished");
        if let Err(error) = input.write_all(format!("{line}\n").as_bytes()) {
            panic!("it no longer listens ({error}) at `{line}`: {}", self.last_words());
        }
    }

    /// Waits for the answer to what it was told.
    ///
    /// # Panics
    /// If it ends instead.
    #[track_caller]
    pub fn hear(&mut self) -> Answer {
        let mut line = String::new();
        // A driver prints for its kernels where a console answers.
        while self.output.read_line(&mut line).expect("its output is text") != 0 && line.trim_end() == PRINTED
        {
            line.clear();
        }
        let mut words = line.split_whitespace();
        let Some(status) = words.next().and_then(|word| word.parse().ok()) else {
            let (said, words) = (line.trim_end(), self.last_words());
            panic!("no answer but `{said}` to `{}`: {words}", self.told);
        };
        Answer { status, wrote: words.map(bytes_of).collect() }
    }

    /// Tells it something and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Answer {
        self.tell(line);
        self.hear()
    }

    /// Lets it call a function of the driver or of NVML.
    #[track_caller]
    pub fn call(&mut self, name: &str, arguments: &[Arg<'_>]) -> Answer {
        self.ask(&format!("call {name}{}", written(arguments)))
    }

    /// As [`Self::call`], of a console that may end in the middle of it.
    ///
    /// # Errors
    /// How it ended, and what it said.
    pub fn try_call(&mut self, name: &str, arguments: &[Arg<'_>]) -> Result<Answer, String> {
        self.tell(&format!("call {name}{}", written(arguments)));
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(1..) => {}
            _ => return Err(self.last_words()),
        }
        let mut words = line.split_whitespace();
        let status = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| line.clone())?;
        Ok(Answer { status, wrote: words.map(bytes_of).collect() })
    }

    /// Lets it call a function up to `count` times, while it succeeds: the last status, and how often it did.
    #[track_caller]
    pub fn repeat(&mut self, count: u64, name: &str, arguments: &[Arg<'_>]) -> (i64, u64) {
        self.start_repeating(count, name, arguments);
        let answer = self.hear();
        (answer.status, answer.number(0))
    }

    /// As [`Self::repeat`], without waiting; [`Self::hear`] has the answer.
    #[track_caller]
    pub fn start_repeating(&mut self, count: u64, name: &str, arguments: &[Arg<'_>]) {
        self.tell(&format!("repeat {count} {name}{}", written(arguments)));
    }

    /// Lets so many threads, which end then, call a function up to `count` times each: the status of one that failed, and how often it
    /// succeeded in all.
    #[track_caller]
    pub fn in_threads(&mut self, threads: u64, count: u64, name: &str, arguments: &[Arg<'_>]) -> (i64, u64) {
        let answer = self.ask(&format!("threads {threads} {count} {name}{}", written(arguments)));
        (answer.status, answer.number(0))
    }

    /// Lets a host function of a stream call a function, which none may, and waits for it: the status.
    #[track_caller]
    pub fn in_host_function(&mut self, stream: u64, name: &str, arguments: &[Arg<'_>]) -> i64 {
        self.ask(&format!("host {stream:#x} {name}{}", written(arguments))).status
    }

    /// Lets a child of it take over, until [`Self::end_child`].
    #[track_caller]
    pub fn fork(&mut self) {
        assert_eq!(self.ask("fork").status, 0);
    }

    /// Lets it execute itself.
    #[track_caller]
    pub fn exec(&mut self) {
        self.tell("exec");
        let _ = self.ask("pid");
    }

    /// Ends the child that took over. It must end well.
    #[track_caller]
    pub fn end_child(&mut self) {
        assert_eq!(self.ask("end").status, 0, "the child's wait status");
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    /// If there is nothing to kill.
    pub fn kill(mut self) {
        self.child.kill().expect("it still runs");
        self.child.wait().expect("it is our child");
    }

    /// Lets it end. It must end well, and have said nothing on standard error.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn finish(mut self) {
        drop(self.input.take());
        let words = self.last_words();
        assert_eq!(words, "ended with exit status: 0, and said ``");
    }

    fn last_words(&mut self) -> String {
        drop(self.input.take());
        let (mut said, mut status) = (String::new(), String::from("unknown"));
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut said);
        }
        if let Ok(ended) = self.child.wait() {
            status = ended.to_string();
        }
        format!("ended with {status}, and said `{said}`")
    }
}

/// A console that a failing test leaves behind ends with its input; it is not left a zombie either.
impl Drop for Console {
    fn drop(&mut self) {
        drop(self.input.take());
        if std::thread::panicking() {
            // It may be told to go on for good.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn written(arguments: &[Arg<'_>]) -> String {
    arguments.iter().fold(String::new(), |mut line, argument| {
        let _ = match argument {
            Arg::Is(number) => write!(line, " {number:#x}"),
            Arg::Out(bytes) => write!(line, " z:{bytes}"),
            Arg::Text(text) => write!(line, " t:{text}"),
            Arg::At(bytes) | Arg::Parameter(bytes) => {
                line.push_str(if matches!(argument, Arg::At(_)) { " b:" } else { " p:" });
                bytes.iter().try_for_each(|byte| write!(line, "{byte:02x}"))
            }
        };
        line
    })
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(0)).collect()
}
