//! Starting a program as cheaply as can be, with exactly the variables that it is given: `posix_spawn` and `waitpid`, all
//! strings made before the clock is read.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString, c_char};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;

use anyhow::{Context, Result, bail};

use crate::clock::now_ns;

/// A process's variables.
pub type Variables = BTreeMap<OsString, OsString>;

/// A program with its words and variables, ready to be started many times.
pub struct Program {
    path: CString,
    words: Vec<CString>,
    variables: Vec<CString>,
}

/// When a program was started and when it was gone, CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Just before it was started.
    pub from_ns: u64,
    /// When it had been waited for.
    pub to_ns: u64,
}

impl Ran {
    /// From start to end, in nanoseconds.
    pub fn span_ns(self) -> f64 {
        (self.to_ns - self.from_ns) as f64
    }
}

impl Program {
    /// `path` with `words` after it, and `variables` and no others.
    pub fn new(path: &Path, words: &[&str], variables: &Variables) -> Result<Self> {
        let own = CString::new(path.as_os_str().as_bytes())?;
        let mut all = vec![own.clone()];
        for word in words {
            all.push(CString::new(*word)?);
        }
        let pair = |(name, value): (&OsString, &OsString)| {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            Ok(CString::new(text.into_vec())?)
        };
        Ok(Self { path: own, words: all, variables: variables.iter().map(pair).collect::<Result<_>>()? })
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started, or ends in another way than with status 0.
    pub fn run(&self) -> Result<Ran> {
        let (words, variables) = (pointers(&self.words), pointers(&self.variables));
        let mut pid = 0;
        let from_ns = now_ns();
        // SAFETY: all strings end with NUL and both lists with NULL; they live until the call returns, when the child has
        // its own. NULL stands for no file actions and default attributes.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.path.as_ptr(),
                ptr::null(),
                ptr::null(),
                words.as_ptr(),
                variables.as_ptr(),
            )
        };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error))
                .with_context(|| format!("{} could not be started", self.path.to_string_lossy()));
        }
        let status = wait(pid).with_context(|| format!("waiting for {}", self.path.to_string_lossy()))?;
        let to_ns = now_ns();
        if !status.success() {
            bail!("{} ended with {status}", self.path.to_string_lossy());
        }
        Ok(Ran { from_ns, to_ns })
    }
}

fn pointers(texts: &[CString]) -> Vec<*mut c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

fn wait(pid: libc::pid_t) -> io::Result<ExitStatus> {
    let mut status = 0;
    loop {
        // SAFETY: the child is ours and has not been waited for; `status` is writable.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(ExitStatus::from_raw(status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, variables: &Variables) -> Result<Ran> {
        Program::new(Path::new("/bin/sh"), &["-c", script], variables)?.run()
    }

    #[test]
    fn a_program_has_the_variables_that_it_was_given_and_no_others() {
        let variables = Variables::from([("GIVEN".into(), "a b".into())]);
        assert!(shell("[ \"$GIVEN\" = 'a b' ] && [ -z \"$HOME\" ]", &variables).is_ok());
    }

    #[test]
    fn a_bad_end_and_a_missing_program_are_errors() {
        let error = shell("exit 3", &Variables::new()).unwrap_err().to_string();
        assert!(error.contains("/bin/sh ended with exit status: 3"), "{error}");
        let missing = Program::new(Path::new("/no/such/program"), &[], &Variables::new()).unwrap();
        assert!(missing.run().unwrap_err().to_string().contains("could not be started"));
    }
}
