//! Which file an address of this process lies in, by `/proc/self/maps` (proc_pid_maps(5)).

use std::ops::Range;

/// The file mappings of this process at one moment.
pub(crate) struct Maps(Vec<(Range<usize>, String)>);

impl Maps {
    /// Reads them; none where `/proc` is not mounted.
    pub(crate) fn read() -> Self {
        Maps::parse(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Maps(text.lines().filter_map(line).collect())
    }

    /// The file that `address` lies in.
    pub(crate) fn file_at(&self, address: usize) -> Option<&str> {
        self.0.iter().find(|(range, _)| range.contains(&address)).map(|(_, path)| path.as_str())
    }

    /// The path of the first file whose name begins with `name`.
    pub(crate) fn path_of(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(_, path)| file_name(path).starts_with(name)).map(|(_, path)| path.clone())
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn line(line: &str) -> Option<(Range<usize>, String)> {
    // address perms offset dev inode path: the path is all from its first slash.
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
    let path = line.get(line.find('/')?..)?;
    Some((range, path.strip_suffix(" (deleted)").unwrap_or(path).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_file() {
        let maps = Maps::parse(
            "7f00-7f10 r-xp 00000000 08:01 12   /usr/lib/with space/libcuda.so.580.1\n\
             7f10-7f20 rw-p 00000000 00:00 0 \n\
             8f00-8f10 r-xp 00000000 08:01 13   /opt/libcuota.so (deleted)\n",
        );
        assert_eq!(maps.file_at(0x7f0f), Some("/usr/lib/with space/libcuda.so.580.1"));
        assert_eq!(maps.file_at(0x7f10), None);
        assert_eq!(maps.path_of("libcuota.so").unwrap(), "/opt/libcuota.so");
        assert_eq!(maps.path_of("libcuda.so").unwrap(), "/usr/lib/with space/libcuda.so.580.1");
    }

    #[test]
    fn this_function_lies_in_this_program() {
        let maps = Maps::read();
        let here = maps.file_at(this_function_lies_in_this_program as *const () as usize).unwrap();
        assert_eq!(std::path::Path::new(here), std::env::current_exe().unwrap());
    }
}
