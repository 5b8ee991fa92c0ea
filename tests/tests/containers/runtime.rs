//! Containers, as a runtime makes them.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cuota_tests::console::Console;
use cuota_tests::machine::skip;
use tempfile::TempDir;

use crate::site::{Site, folder};

/// What makes containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Runtime {
    Podman,
    Runc,
}

impl Runtime {
    /// Whether it can make a container here. Where it cannot, the running test says that it is skipped, and why.
    pub(crate) fn is_there(self) -> bool {
        static PODMAN: LazyLock<Result<(), String>> = LazyLock::new(|| Runtime::Podman.try_out());
        static RUNC: LazyLock<Result<(), String>> = LazyLock::new(|| Runtime::Runc.try_out());
        let tried = match self {
            Runtime::Podman => &PODMAN,
            Runtime::Runc => &RUNC,
        };
        if let Err(why) = &**tried {
            skip(&format!("{self:?} cannot run a container here: {why}"));
        }
        tried.is_ok()
    }

    fn try_out(self) -> Result<(), String> {
        if fs::metadata("/proc/self").is_ok_and(|about| about.uid() != 0) {
            return Err("the test sets containers up as root, and this is another user".to_owned());
        }
        let place = Place::new();
        let output = self
            .command(&place, &Setup::default(), 0, &["true"])
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(said.lines().last().unwrap_or("it says nothing").to_owned())
        }
    }

    /// The command that runs a container to its end.
    fn command(self, place: &Place, setup: &Setup, uid: u32, program: &[&str]) -> Command {
        match self {
            Runtime::Podman => podman_run(place, setup, uid, program),
            Runtime::Runc => runc_run(place, setup, uid, program),
        }
    }
}

/// What a container is to have beside its root.
#[derive(Default)]
struct Setup {
    /// Folders of this machine, where the container sees them, and whether it may write there.
    volumes: Vec<(PathBuf, String, bool)>,
    environment: Vec<(String, String)>,
    /// Options of `podman run`.
    options: Vec<String>,
    /// The part of `config.json` with the tenant's hook.
    hooks: Option<String>,
    /// Where Podman is to look for hooks.
    hooks_folder: Option<PathBuf>,
    /// Whether [`NO_NAMESPACES`] holds.
    seccomp: bool,
    /// A symbolic link in the root: its path there, and where it leads.
    link: Option<(&'static str, &'static str)>,
    /// Whose the root is on this machine.
    owner: u32,
    /// A root file system; without it a folder with this machine's `/usr`.
    root: Option<PathBuf>,
}

/// A container's name and folder.
struct Place {
    name: String,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("cuota-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Place { name, folder: folder() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

/// A container of a tenant's.
pub(crate) struct Container<'a> {
    site: &'a Site,
    runtime: Runtime,
    place: Place,
    setup: Setup,
}

impl<'a> Container<'a> {
    /// One that belongs to no tenant.
    pub(crate) fn plain(site: &'a Site, runtime: Runtime) -> Self {
        let mut setup = Setup::default();
        for (name, target) in [("guest", "/guest"), ("sim", "/sim")] {
            setup.volumes.push((site.path(name), target.to_owned(), false));
        }
        setup.volumes.push((site.machine.gpu_folder(), "/gpu".to_owned(), true));
        for (name, value) in
            [("LD_LIBRARY_PATH", "/sim"), ("CUOTA_SIM_DIR", "/gpu"), ("CUOTA_SIM_LIB", "/sim")]
        {
            setup.environment.push((name.to_owned(), value.to_owned()));
        }
        Container { site, runtime, place: Place::new(), setup }
    }

    /// One of this tenant's.
    pub(crate) fn new(site: &'a Site, runtime: Runtime, tenant: &str) -> Self {
        let mut container = Self::plain(site, runtime);
        match runtime {
            Runtime::Podman => container.setup.options.push(format!("--device=cuota/tenant={tenant}")),
            Runtime::Runc => {
                let config = site.cuota_ok(&["inject", "--hook", "--tenant", tenant, "--print"]);
                // An object with the one key that `config.json` is to have.
                let inner = config.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
                container.setup.hooks = inner.map(str::to_owned);
            }
        }
        container
    }

    /// With the hooks that lie in this folder.
    pub(crate) fn with_hooks(mut self, folder: &Path) -> Self {
        self.setup.hooks_folder = Some(folder.to_owned());
        self
    }

    /// With a file or folder of this machine's, and where the container sees it.
    pub(crate) fn with_volume(mut self, source: PathBuf, target: &str, is_writable: bool) -> Self {
        self.setup.volumes.push((source, target.to_owned(), is_writable));
        self
    }

    /// With a variable in its specification.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.setup.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With further options of `podman run`.
    pub(crate) fn with_options<'o>(mut self, options: impl Iterator<Item = &'o str>) -> Self {
        self.setup.options.extend(options.map(str::to_owned));
        self
    }

    /// With a user namespace, whose root is this user of the machine's.
    pub(crate) fn mapped_to(mut self, first: u32) -> Self {
        self.setup.owner = first;
        let maps = ["uid", "gid"].map(|kind| format!("--{kind}map=0:{first}:65536"));
        self.setup.options.extend(maps);
        self
    }

    /// With a seccomp profile under which no program makes a namespace.
    pub(crate) fn without_namespaces(mut self) -> Self {
        let path = self.place.folder.path().join("seccomp.json");
        fs::write(&path, NO_NAMESPACES).expect("the folder is ours");
        self.setup.options.push(format!("--security-opt=seccomp={}", path.display()));
        self.setup.seccomp = true;
        self
    }

    /// With a symbolic link in the image.
    pub(crate) fn with_link(mut self, path: &'static str, target: &'static str) -> Self {
        self.setup.link = Some((path, target));
        self
    }

    /// In this root file system.
    pub(crate) fn on(mut self, root: &Path) -> Self {
        self.setup.root = Some(root.to_owned());
        self
    }

    /// Starts it with a console as its first process.
    #[track_caller]
    pub(crate) fn start(&self, uid: u32, program: &[&str]) -> Console {
        Console::observed(
            &mut self.runtime.command(&self.place, &self.setup, uid, program),
            self.site.machine.observer(),
        )
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, uid: u32, program: &[&str]) -> Output {
        self.runtime.command(&self.place, &self.setup, uid, program).output().expect("the runtime is there")
    }

    /// Starts it, with pipes, and waits until its program has printed a line.
    pub(crate) fn spawn(&self, uid: u32, program: &[&str]) -> Child {
        let mut command = self.runtime.command(&self.place, &self.setup, uid, program);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the runtime is there");
        let output = child.stdout.as_mut().expect("it is a pipe");
        BufReader::new(output).read_line(&mut String::new()).expect("it prints a line");
        child
    }

    /// As [`Self::run`], of a shell script that must succeed: what it printed.
    #[track_caller]
    pub(crate) fn shell(&self, uid: u32, script: &str) -> String {
        let output = self.run(uid, &["bash", "-c", script]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {said}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a console as a further process of the container.
    #[track_caller]
    pub(crate) fn console_inside(&self) -> Console {
        let mut command = match self.runtime {
            Runtime::Podman => podman(&["exec", "-i"]),
            Runtime::Runc => runc(&self.place, &["exec"]),
        };
        command.args([&self.place.name, "/guest/console"]);
        Console::observed(&mut command, self.site.machine.observer())
    }

    /// Kills its first process, and with it all of them.
    #[track_caller]
    pub(crate) fn kill(&self) {
        let output = self.try_to_kill();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn try_to_kill(&self) -> Output {
        let mut command = match self.runtime {
            Runtime::Podman => podman(&["kill", "--signal", "KILL", &self.place.name]),
            Runtime::Runc => runc(&self.place, &["kill", &self.place.name, "KILL"]),
        };
        command.output().expect("the runtime is there")
    }
}

/// A container whose program does not end by itself: killed with this, also where the test fails.
pub(crate) struct Leashed<'a>(pub(crate) &'a Container<'a>);

impl Drop for Leashed<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_to_kill();
    }
}

fn podman(arguments: &[&str]) -> Command {
    let mut command = Command::new("podman");
    command.arg("--cgroup-manager=cgroupfs").args(arguments);
    command
}

fn podman_run(place: &Place, setup: &Setup, uid: u32, program: &[&str]) -> Command {
    let mut command = podman(&[]);
    if let Some(folder) = &setup.hooks_folder {
        command.arg("--hooks-dir").arg(folder);
    }
    command.args(["run", "--rm", "--interactive", "--runtime", "runc", "--network", "none"]);
    // Podman asks for more than a machine without limits of its own may give.
    command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
    command.args(["--name", &place.name, "--user", &format!("{uid}:{uid}")]);
    for (source, target, writable) in volumes(setup) {
        command.arg(format!("--volume={}:{target}{}", source.display(), if writable { "" } else { ":ro" }));
    }
    for (name, value) in &setup.environment {
        command.arg(format!("--env={name}={value}"));
    }
    command.args(&setup.options);
    lay_root(&place.root(), setup);
    command.arg("--rootfs").arg(place.root()).args(program);
    command
}

fn runc(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(place.state()).args(arguments);
    command
}

fn runc_run(place: &Place, setup: &Setup, uid: u32, program: &[&str]) -> Command {
    lay_root(&place.root(), setup);
    let config = place.folder.path().join("config.json");
    fs::write(config, runc_config(place, setup, uid, program)).expect("the folder is ours");
    let mut command = runc(place, &["run", "--bundle"]);
    command.arg(place.folder.path()).arg(&place.name);
    command
}

/// The capabilities that Podman gives.
const CAPABILITIES: &str = r#"["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_NET_BIND_SERVICE","CAP_SETFCAP","CAP_SETGID","CAP_SETPCAP","CAP_SETUID","CAP_SYS_CHROOT"]"#;

/// A seccomp profile (runtime-spec, config-linux.md): no `unshare`, no `clone` with `CLONE_NEWUSER`, and no `clone3`, whose flags
/// no profile can see; the C library then does without it.
const NO_NAMESPACES: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
    {"names":["unshare"],"action":"SCMP_ACT_ERRNO","errnoRet":1},
    {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
    {"names":["clone"],"action":"SCMP_ACT_ERRNO","errnoRet":1,
     "args":[{"index":0,"value":268435456,"valueTwo":268435456,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;

/// A bundle's configuration (runtime-spec, config.md).
fn runc_config(place: &Place, setup: &Setup, uid: u32, program: &[&str]) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| {
        items.map(|item| format!("{item:?}")).collect::<Vec<_>>().join(",")
    };
    let program = list(&mut program.iter().map(|word| (*word).to_owned()));
    let path = ("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    let variables =
        list(&mut setup.environment.iter().chain([&path]).map(|(name, value)| format!("{name}={value}")));
    let mut mounts = String::new();
    for (source, target, writable) in volumes(setup) {
        let mode = if writable { "rw" } else { "ro" };
        let _ = write!(
            mounts,
            r#",{{"destination":{target:?},"type":"bind","source":{source:?},"options":["rbind","{mode}"]}}"#
        );
    }
    let hooks = setup.hooks.as_ref().map_or(String::new(), |hooks| format!(",{hooks}"));
    let seccomp = if setup.seccomp { format!(r#","seccomp":{NO_NAMESPACES}"#) } else { String::new() };
    let bounds = if uid == 0 { CAPABILITIES } else { "[]" };
    format!(
        r#"{{"ociVersion":"1.0.2","process":{{"terminal":false,"user":{{"uid":{uid},"gid":{uid}}},"args":[{program}],"env":[{variables}],
        "cwd":"/","capabilities":{{"bounding":{CAPABILITIES},"effective":{bounds},"permitted":{bounds}}}}},
        "root":{{"path":{root:?}}},
        "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},
        {{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755","size=65536k"]}},
        {{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777"]}}{mounts}],
        "linux":{{"cgroupsPath":"/{name}","namespaces":[{{"type":"pid"}},{{"type":"mount"}},{{"type":"ipc"}},{{"type":"uts"}},{{"type":"network"}}]{seccomp}}}{hooks}}}"#,
        root = place.root(),
        name = place.name,
    )
}

fn volumes(setup: &Setup) -> impl Iterator<Item = (PathBuf, String, bool)> {
    let usr = setup.root.is_none().then(|| (PathBuf::from("/usr"), "/usr".to_owned(), false));
    usr.into_iter().chain(setup.volumes.iter().cloned())
}

/// Makes the container's root: links into this machine's `/usr`, or into those of the given root file system, whose folders
/// are copied, since the runtime makes mount points in them.
fn lay_root(root: &Path, setup: &Setup) {
    if root.exists() {
        return;
    }
    if let Some(from) = &setup.root {
        let copied = Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(root).status();
        assert!(copied.expect("coreutils").success(), "cannot copy {}", from.display());
    }
    if let Some((path, target)) = setup.link {
        for folder in ["etc", "e"] {
            fs::create_dir_all(root.join(folder)).expect("the folder is ours");
        }
        // In a folder's place, too.
        let _ = fs::remove_dir(root.join(path));
        symlink(target, root.join(path)).expect("the folder is ours");
    }
    for folder in ["usr", "etc/pam.d", "tmp", "root", "home/user", "proc", "dev", "sys", "run", "var"] {
        fs::create_dir_all(root.join(folder)).expect("the folder is ours");
    }
    for (name, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        if fs::symlink_metadata(root.join(name)).is_err() {
            symlink(target, root.join(name)).expect("the folder is ours");
        }
    }
    let write = |name: &str, text: &str| fs::write(root.join(name), text).expect("the folder is ours");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\n");
    write("etc/group", "root:x:0:\nuser:x:1000:\n");
    // What `su` and `su -` ask: root may become anybody.
    for service in ["su", "su-l"] {
        let rules =
            "auth sufficient pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n";
        write(&format!("etc/pam.d/{service}"), rules);
    }
    if setup.root.is_none() {
        let _ = fs::copy("/etc/ld.so.cache", root.join("etc/ld.so.cache"));
    }
    if setup.owner != 0 {
        // As images are: the runtime makes mount points in it as root of the container.
        let owner = format!("{0}:{0}", setup.owner);
        let owned =
            Command::new("chown").args(["--recursive", "--no-dereference", &owner]).arg(root).status();
        assert!(owned.expect("coreutils").success(), "cannot give {} away", root.display());
    }
}
