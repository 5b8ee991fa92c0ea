//! Paths as results hold them: below the folder that the run was started in, else by the file's name alone. Where things lie
//! on somebody's machine is nobody's business, and the same run on two machines is to read the same.

use std::env;
use std::path::{Path, PathBuf};

/// Folders with what they are called.
pub struct Shown(Vec<(PathBuf, &'static str)>);

impl Shown {
    /// The folder that the run was started in and this program's own are nothing; others are called by a name.
    pub fn new(named: impl IntoIterator<Item = (PathBuf, &'static str)>) -> Self {
        let exe = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf()));
        let own = env::current_dir().ok().into_iter().chain(exe).map(|folder| (folder, ""));
        // The root is above everything: nothing is said by leaving it out.
        Self(named.into_iter().chain(own).filter(|(folder, _)| folder.parent().is_some()).collect())
    }

    /// An absolute path; others stay as they are.
    pub fn path(&self, path: &Path) -> String {
        if path.is_relative() {
            return path.display().to_string();
        }
        let known = self.0.iter().find_map(|(folder, name)| Some((path.strip_prefix(folder).ok()?, name)));
        match (known, path.file_name()) {
            (Some((rest, name)), _) if rest.as_os_str().is_empty() && !name.is_empty() => (*name).to_owned(),
            (Some((rest, name)), _) => Path::new(name).join(rest).display().to_string(),
            (None, Some(file)) => file.to_string_lossy().into_owned(),
            (None, None) => path.display().to_string(),
        }
    }

    /// A word of a command line or a variable: a path, `NAME=PATH`, or several with colons between them.
    pub fn word(&self, word: &str) -> String {
        let part = |part: &str| match part.split_once('=') {
            Some((name, value)) => format!("{name}={}", self.path(Path::new(value))),
            None => self.path(Path::new(part)),
        };
        word.split(':').map(part).collect::<Vec<_>>().join(":")
    }

    /// A sentence, in which the folders that are known stand somewhere.
    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (folder, name)| {
            let end = if name.is_empty() { "" } else { "/" };
            text.replace(&format!("{}/", folder.display()), &format!("{name}{end}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Shown {
        Shown(vec![(PathBuf::from("/tmp/run"), "{scratch}"), (PathBuf::from("/home/me/work"), "")])
    }

    #[test]
    fn a_path_is_shown_from_the_folder_of_the_run_on_or_by_its_name() {
        let path = |text: &str| shown().path(Path::new(text));
        assert_eq!(path("/home/me/work/bin/libcuota.so"), "bin/libcuota.so");
        assert_eq!(path("/tmp/run/hami.cache"), "{scratch}/hami.cache");
        assert_eq!(path("/tmp/run"), "{scratch}");
        assert_eq!(path("/opt/hami/libvgpu.so"), "libvgpu.so");
        assert_eq!(path("bin/libcuota.so"), "bin/libcuota.so");
    }

    #[test]
    fn words_keep_what_is_no_path() {
        let word = |text: &str| shown().word(text);
        assert_eq!(word("hami=/opt/hami/libvgpu.so"), "hami=libvgpu.so");
        assert_eq!(word("--out=/home/me/work/out"), "--out=out");
        assert_eq!(word("/opt/a/liba.so:/tmp/run/b.so"), "liba.so:{scratch}/b.so");
        for kept in ["--memory", "16GiB", "OH-001,OH-002", "0=8192M", "50%", "force"] {
            assert_eq!(word(kept), kept);
        }
    }

    #[test]
    fn a_sentence_loses_its_folders_and_nothing_else() {
        let text =
            shown().text("cannot open /tmp/run/x.cache, started by /home/me/work/cuota at /dev/nvidia0");
        assert_eq!(text, "cannot open {scratch}/x.cache, started by cuota at /dev/nvidia0");
    }
}
