//! What a test needs built: `libcuota.so` in release, the command, the software GPU, and C guests.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use cuota_region::policy::PolicyWriter;
use cuota_region::sys::Fd;

/// Cargo's target directory, from where the running test binary lies: `<target>/<profile>/deps/<test>`.
static TARGET: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = env::current_exe().expect("the running test has a path");
    test.ancestors().nth(3).expect("a test binary lies in <target>/<profile>/deps").to_path_buf()
});

/// Cargo's target directory.
pub fn target() -> &'static Path {
    &TARGET
}

/// The folder of the guests' sources: the one that `CUOTA_TEST_GUESTS` names, where a test runs elsewhere than it was built, or this
/// package's.
pub fn guests() -> PathBuf {
    env::var_os("CUOTA_TEST_GUESTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("guests"), PathBuf::from)
}

/// A folder for built guests and other files of the tests.
pub fn scratch() -> PathBuf {
    let folder = TARGET.join("guests");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
    folder
}

/// The release build of `libcuota.so`: the one that `CUOTA_LIB` names, or one that is built here, once.
///
/// Release, because that is what is shipped: a debug build has other imports and another size.
pub fn libcuota() -> &'static Path {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("CUOTA_LIB").map_or_else(
            || {
                cargo(&["build", "--release", "--package", "cuota-shim"]);
                TARGET.join("release/libcuota.so")
            },
            PathBuf::from,
        )
    });
    &LIBRARY
}

/// The command `cuota`: the one that `CUOTA_COMMAND` names, or one that is built here, once.
pub fn command() -> &'static Path {
    static COMMAND: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("CUOTA_COMMAND").map_or_else(
            || {
                cargo(&["build", "--package", "cuota"]);
                TARGET.join("debug/cuota")
            },
            PathBuf::from,
        )
    });
    &COMMAND
}

/// The folder of the software GPU, with the names that programs open and link: the one that `CUOTA_SIM_LIB` names, or one
/// that is built here, once.
pub fn software_gpu() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(folder) = env::var_os("CUOTA_SIM_LIB") {
            return folder.into();
        }
        cargo(&["build", "--package", "cuota-sim-cuda", "--package", "cuota-sim-nvml"]);
        let folder = scratch().join("software-gpu");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        for (library, name) in [
            ("libcuota_sim_cuda.so", "libcuda.so.1"),
            ("libcuota_sim_cuda.so", "libcuda.so"),
            ("libcuota_sim_nvml.so", "libnvidia-ml.so.1"),
        ] {
            link(&TARGET.join("debug").join(library), &folder.join(name));
        }
        folder
    });
    &FOLDER
}

/// NVIDIA's CUDA runtime: the library that `CUOTA_CUDART` names, or the one that `tests/fetch-cudart` fetched; `None` where there is
/// neither.
pub fn cudart() -> Option<PathBuf> {
    let named = env::var_os("CUOTA_CUDART").map(PathBuf::from);
    named.or_else(|| Some(TARGET.join("cudart/libcudart.so.13")).filter(|path| path.exists()))
}

/// Runs cargo on the workspace, with the target directory of the running test.
fn cargo(arguments: &[&str]) {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .arg("--target-dir")
        .arg(&*TARGET)
        .output()
        .expect("cargo runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} failed:\n{complaint}", arguments.join(" "));
}

/// Compiles `guests/<source>` with the given flags into `<scratch>/<hash>/<name>` and returns the path.
///
/// The folder's name is a hash of the source, the headers and the flags, so a changed guest is a new file, and a guest that
/// several tests use is compiled once.
///
/// # Panics
/// If there is no C compiler, or the guest does not compile.
pub fn compile(source: &str, name: &str, flags: &[&OsStr]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let path = guests().join(source);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let header = fs::read(guests().join("guest.h")).expect("guests have a header");
    let mut hasher = DefaultHasher::new();
    (text, header, flags).hash(&mut hasher);
    let folder = scratch().join(format!("{:016x}", hasher.finish()));
    let binary = folder.join(name);
    if binary.exists() {
        return binary;
    }
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let unfinished = folder.join(format!("{name}.{}", std::process::id()));
    let (compiler, language) =
        if source.ends_with(".cpp") { ("c++", "-std=gnu++17") } else { ("cc", "-std=gnu11") };
    let output = Command::new(compiler)
        .args([language, "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-fexceptions"])
        .arg(&path)
        .arg("-o")
        .arg(&unfinished)
        .args(flags)
        .output()
        .expect(
            "tests need a C and a C++ compiler: install gcc and g++, or clang, so that `cc` and `c++` run",
        );
    assert!(
        output.status.success(),
        "{compiler} {source} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&unfinished, &binary).expect("the target folder is writable");
    binary
}

/// Compiles a guest that is a program.
pub fn program(name: &str) -> PathBuf {
    compile(&format!("{name}.c"), name, &[])
}

/// The console, linked with `-lcuda`: with a library of empty functions that has the driver's names, so that it can be built
/// where there is no driver, and runs with one that lacks some.
pub fn linked_console() -> &'static Path {
    static CONSOLE: LazyLock<PathBuf> = LazyLock::new(|| {
        let symbols = crate::coverage::functions().map(|function| function.symbol);
        let list = symbols.map(|symbol| format!("X({symbol})\n")).collect::<String>();
        let mut hasher = DefaultHasher::new();
        list.hash(&mut hasher);
        let folder = scratch().join(format!("linked-{:016x}", hasher.finish()));
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let functions = folder.join("functions.h");
        if !functions.exists() {
            let unfinished = functions.with_extension(std::process::id().to_string());
            fs::write(&unfinished, list).expect("the target folder is writable");
            fs::rename(&unfinished, &functions).expect("the target folder is writable");
        }
        let define = format!("-DLINKED=\"{}\"", functions.display());
        let library = library("empty_driver.c", "libcuda.so.1", &[define.as_ref()]);
        let folder = library.parent().expect("a compiled guest lies in a folder");
        link(&library, &folder.join("libcuda.so"));
        let search = format!("-L{}", folder.display());
        // The functions are weak, so a linker that drops what is not needed would drop the library.
        let needed = "-Wl,--no-as-needed".as_ref();
        compile("console.c", "console", &[define.as_ref(), search.as_ref(), needed, "-lcuda".as_ref()])
    });
    &CONSOLE
}

/// Compiles a guest that is a shared library, with further flags; its soname and file name are `file`.
pub fn library(source: &str, file: &str, flags: &[&OsStr]) -> PathBuf {
    let soname = format!("-Wl,-soname,{file}");
    let mut all: Vec<&OsStr> = vec!["-shared".as_ref(), "-fPIC".as_ref(), soname.as_ref()];
    all.extend(flags);
    compile(source, file, &all)
}

/// A folder with the fake driver: `libcuda.so.1`, `libcuda.so` to link with, and `libnvidia-ml.so.1`.
pub fn fake_driver() -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let cuda = library("fake_driver.c", "libcuda.so.1", &["-Wl,-Bsymbolic".as_ref()]);
        let nvml = library("fake_nvml.c", "libnvidia-ml.so.1", &["-Wl,-Bsymbolic".as_ref()]);
        let folder = cuda.parent().expect("a compiled guest lies in a folder").to_path_buf();
        link(&cuda, &folder.join("libcuda.so"));
        link(&nvml, &folder.join("libnvidia-ml.so.1"));
        folder
    });
    FOLDER.clone()
}

/// A folder with a fake `libcuda.so.1` that has only the older kind of hash table.
pub fn sysv_driver() -> PathBuf {
    let flags = ["-Wl,-Bsymbolic".as_ref(), "-Wl,--hash-style=sysv".as_ref()];
    let cuda = library("fake_driver.c", "libcuda.so.1", &flags);
    let folder = cuda.parent().expect("a compiled guest lies in a folder").to_path_buf();
    link(&fake_driver().join("libnvidia-ml.so.1"), &folder.join("libnvidia-ml.so.1"));
    folder
}

/// A folder with a fake `libcuda.so.1` whose symbols have the version `libcuda.so.1`.
pub fn versioned_driver() -> PathBuf {
    let script = scratch().join(format!("driver-{}.map", std::process::id()));
    fs::write(&script, "libcuda.so.1 { global: cu*; fake_*; local: *; };\n")
        .expect("the target folder is writable");
    // The script's path differs from run to run; the flag that the folder is named by shall not.
    let stable = scratch().join("driver.map");
    fs::rename(&script, &stable).expect("the target folder is writable");
    let flag = format!("-Wl,--version-script={}", stable.display());
    let cuda = library("fake_driver.c", "libcuda.so.1", &["-Wl,-Bsymbolic".as_ref(), flag.as_ref()]);
    cuda.parent().expect("a compiled guest lies in a folder").to_path_buf()
}

/// Makes `name` a symbolic link to `target`; one that is already there is replaced by rename.
pub fn link(target: &Path, name: &Path) {
    let unfinished = name.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&unfinished);
    std::os::unix::fs::symlink(target, &unfinished)
        .and_then(|()| fs::rename(&unfinished, name))
        .unwrap_or_else(|error| panic!("cannot link {}: {error}", name.display()));
}

/// A region in which nobody has a limit.
pub fn open_region() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = scratch().join("open-region");
        // Made anew: an older build's files can have another layout.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("tenant")).expect("the target folder is writable");
        let mut options = fs::File::options();
        options.create(true).truncate(false).read(true).write(true);
        let policy = options.open(folder.join("policy.v1")).expect("the target folder is writable");
        PolicyWriter::on(&Fd::from_owned(policy.into_raw_fd())).expect("the policy can be written");
        folder
    });
    &FOLDER
}
