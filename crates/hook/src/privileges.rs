//! What the hook gives up before it touches the image's files: capabilities, and every system call but those for the work.

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Files of the image may be anyone's; nothing else that root can do is needed for links and the cache.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// No new privileges, an empty bounding set, and of the capabilities only [`KEPT`], where it is there. Errors are passed
/// over: who has nothing to give up may not be allowed to.
pub fn drop_capabilities() {
    let _ = rustix::thread::set_no_new_privs(true);
    for capability in CapabilitySet::all().iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    if let Ok(have) = rustix::thread::capabilities(None) {
        let kept = have.permitted & KEPT;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        let _ = rustix::thread::set_capabilities(None, sets);
    }
}

/// What is left to the process. All opening is openat2: open, openat and creat are not here.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_getrandom,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 (linux/audit.h).
const ARCH: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The filter: another architecture's calls and execve kill the process, what is not in the list fails with EPERM.
fn filter() -> Vec<libc::sock_filter> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let give = |action| step(RETURN, 0, 0, action);
    // struct seccomp_data: nr at 0, arch at 4
    let mut program = vec![step(LOAD, 0, 0, 4), step(EQUAL, 1, 0, ARCH), give(libc::SECCOMP_RET_KILL_PROCESS)];
    program.push(step(LOAD, 0, 0, 0));
    for call in [libc::SYS_execve, libc::SYS_execveat] {
        program.push(step(EQUAL, 0, 1, call as u32));
        program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    }
    for call in ALLOWED {
        program.push(step(EQUAL, 0, 1, *call as u32));
        program.push(give(libc::SECCOMP_RET_ALLOW));
    }
    program.push(give(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    program
}

/// Leaves this thread and those it starts only the calls above. False: the kernel has no filters; the work is safe without.
pub fn confine() -> bool {
    let mut program = filter();
    let wanted = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: PR_SET_SECCOMP with a filter reads `wanted` and the program that it points to, both alive for the call;
    // their lengths agree. It needs no_new_privs or CAP_SYS_ADMIN, and changes only what this thread may call.
    #[allow(unsafe_code, reason = "rustix has no seccomp filters")]
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &raw const wanted) };
    done == 0
}
