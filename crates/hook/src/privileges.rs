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
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The filter: another architecture's calls and execve kill the process, what is not in the list fails with EPERM. The
/// numbers are searched as a tree: the kernel tries each of its calls once when a filter is set, and that is time too.
fn filter() -> Vec<libc::sock_filter> {
    let mut calls: Vec<(u32, u32)> = ALLOWED.iter().map(|call| (*call as u32, libc::SECCOMP_RET_ALLOW)).collect();
    calls.extend([libc::SYS_execve, libc::SYS_execveat].map(|call| (call as u32, libc::SECCOMP_RET_KILL_PROCESS)));
    calls.sort_unstable();
    // struct seccomp_data: nr at 0, arch at 4
    let mut program = vec![step(LOAD, 0, 0, 4), step(EQUAL, 1, 0, ARCH), give(libc::SECCOMP_RET_KILL_PROCESS)];
    program.push(step(LOAD, 0, 0, 0));
    search(&calls, &mut program);
    program
}

/// A search in sorted calls. Jumps are at most 255 steps long: there is room for some hundred calls.
fn search(calls: &[(u32, u32)], program: &mut Vec<libc::sock_filter>) {
    if calls.len() <= 2 {
        for (call, action) in calls {
            program.push(step(EQUAL, 0, 1, *call));
            program.push(give(*action));
        }
        program.push(give(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
        return;
    }
    let (low, high) = calls.split_at(calls.len() / 2);
    let mut below = Vec::new();
    search(low, &mut below);
    program.push(step(AT_LEAST, below.len() as u8, 0, high[0].0));
    program.append(&mut below);
    search(high, program);
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn give(action: u32) -> libc::sock_filter {
    step(RETURN, 0, 0, action)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers to a call, carried out step by step.
    fn answer(program: &[libc::sock_filter], number: u32, arch: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD => value = if k == 0 { number } else { arch },
                EQUAL => at += usize::from(if value == k { jt } else { jf }),
                AT_LEAST => at += usize::from(if value >= k { jt } else { jf }),
                _ => return k,
            }
        }
    }

    #[test]
    fn the_tree_answers_as_the_list_does() {
        let program = filter();
        for number in 0..1000 {
            let wanted = match number {
                n if i64::from(n) == libc::SYS_execve || i64::from(n) == libc::SYS_execveat => {
                    libc::SECCOMP_RET_KILL_PROCESS
                }
                n if ALLOWED.contains(&libc::c_long::from(n)) => libc::SECCOMP_RET_ALLOW,
                _ => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            };
            assert_eq!(answer(&program, number, ARCH), wanted, "{number}");
        }
        assert_eq!(
            answer(&program, libc::SYS_read as u32, 0x4000_0003),
            libc::SECCOMP_RET_KILL_PROCESS,
            "i386's calls"
        );
    }
}
