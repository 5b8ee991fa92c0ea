//! Whether this user can have a mount namespace in which it may mount: there it lays another file over the list of preloaded
//! libraries, and what it starts runs without ours (user_namespaces(7)).

use libc::{CLONE_NEWNS, CLONE_NEWUSER, SIGCHLD, c_int, c_long};

/// What is said of it, with what to do.
pub(super) const WAY: &str = "this user can lay another file over /etc/ld.so.preload in a namespace of its own (unshare -Urm): forbid \
    it by a seccomp profile that refuses unshare, clone3 and clone with CLONE_NEWUSER, or by user.max_user_namespaces=0 on the \
    node, and take CAP_SYS_ADMIN away";

/// Tries each way to such a namespace, in children that end at once, so that nothing of this process changes.
pub(super) fn can_be_made() -> bool {
    // A seccomp profile can refuse one of the calls and forget another.
    [unshare_both, unshare_mounts, clone, clone3].into_iter().any(|attempt| attempt())
}

fn unshare_both() -> bool {
    in_child(CLONE_NEWUSER | CLONE_NEWNS)
}

/// With `CAP_SYS_ADMIN` no user namespace is needed.
fn unshare_mounts() -> bool {
    in_child(CLONE_NEWNS)
}

/// Whether a child may `unshare` these. Not this process itself: it would stay there.
fn in_child(flags: c_int) -> bool {
    // SAFETY: the child makes two system calls, both allowed after fork (signal-safety(7)).
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: plain values; `_exit` does not return.
        unsafe { libc::_exit(c_int::from(libc::unshare(flags) != 0)) };
    }
    ended_well(c_long::from(child))
}

fn clone() -> bool {
    let flags = c_long::from(CLONE_NEWUSER | CLONE_NEWNS | SIGCHLD);
    // SAFETY: without a stack and without CLONE_VM this is `fork`; the child ends at once.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    end_if_child(child);
    ended_well(child)
}

fn clone3() -> bool {
    // SAFETY: a struct of integers, for which 0 is valid.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = u64::from((CLONE_NEWUSER | CLONE_NEWNS).cast_unsigned());
    how.exit_signal = u64::from(SIGCHLD.cast_unsigned());
    // SAFETY: `how` is of the size that is given, and as for `clone` above this is `fork`.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of_val(&how)) };
    end_if_child(child);
    ended_well(child)
}

fn end_if_child(child: c_long) {
    if child == 0 {
        // SAFETY: does not return.
        unsafe { libc::_exit(0) };
    }
}

/// Whether the child was made, and ended with status 0.
fn ended_well(child: c_long) -> bool {
    let Some(child) = libc::pid_t::try_from(child).ok().filter(|child| *child > 0) else { return false };
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return false;
        }
    }
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_leave_this_process_where_it_is() {
        let namespace =
            || ["mnt", "user"].map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
        let before = namespace();
        let _ = can_be_made();
        assert_eq!(namespace(), before);
    }
}
