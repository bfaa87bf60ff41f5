//! Device programs of cgroup version 2 (linux/bpf.h): the kernel asks each program of a cgroup for every open and mknod,
//! and all have to agree. A container's runtime has put one there; it is read, the new rules are put before it, and the
//! result takes its place in one step.
//!
//! A program is read back as the verifier left it. For this kind of program that is what was loaded (its context is not
//! rewritten), so that it can be loaded again; one that calls helpers or uses maps the kernel will refuse, with an error.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A device that is to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// 'c' or 'b'.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    /// Of `rwm`.
    pub access: String,
}

/// struct bpf_insn: code, registers (destination low, source high), offset, constant.
pub type Insn = [u8; 8];

fn insn(code: u8, to: u8, from: u8, off: i16, imm: i32) -> Insn {
    let (off, imm) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, to | from << 4, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The rules, before a program: an access that one of them covers is allowed, all else is the program's to say.
///
/// struct bpf_cgroup_dev_ctx: access (mknod 1, read 2, write 4) << 16 | kind (block 1, char 2), major, minor.
pub fn before(rules: &[Rule], program: &[Insn]) -> Vec<Insn> {
    let mut out = vec![
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOVE_REGISTER, 3, 2, 0, 0),
        insn(AND, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 3, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let access = rule.access.chars().fold(0, |bits, one| {
            bits | ["m", "r", "w"].iter().position(|a| a.starts_with(one)).map_or(0, |at| 1 << at)
        });
        // each jump leads behind the rule
        out.push(insn(JUMP_NOT_EQUAL, 2, 0, 7, kind));
        out.push(insn(JUMP_NOT_EQUAL, 4, 0, 6, rule.major as i32));
        out.push(insn(JUMP_NOT_EQUAL, 5, 0, 5, rule.minor as i32));
        out.push(insn(MOVE_REGISTER, 0, 3, 0, 0));
        out.push(insn(AND, 0, 0, 0, access));
        out.push(insn(JUMP_NOT_EQUAL_REGISTER, 0, 3, 2, 0));
        out.push(insn(MOVE, 0, 0, 0, 1));
        out.push(insn(EXIT, 0, 0, 0, 0));
    }
    out.extend_from_slice(program);
    out
}

/// A program that answers the same to everything.
pub fn always(allow: bool) -> Vec<Insn> {
    vec![insn(MOVE, 0, 0, 0, i32::from(allow)), insn(EXIT, 0, 0, 0, 0)]
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// The most programs that one cgroup has (BPF_CGROUP_MAX_PROGS).
const PROGRAMS: usize = 64;
/// The most instructions that are read of one program.
const LONGEST: usize = 1 << 16;

/// union bpf_attr, as far as it is used; what is not set is zero, as the kernel asks.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Attr {
        Attr([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Attr {
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        self
    }

    fn pointer(mut self, at: usize, value: u64) -> Attr {
        if let Some(place) = self.0.get_mut(at..at + 8) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        self
    }

    fn read(&self, at: usize) -> u32 {
        read_word(&self.0, at)
    }
}

fn read_word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// bpf(2).
///
/// # Safety
/// Every address in `attr` must be of memory that is alive for the call, as long as `attr` says, and writable where the
/// command writes.
#[allow(unsafe_code, reason = "bpf(2) has no wrapper in rustix")]
unsafe fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is 128 bytes that the kernel may read and write; the caller answers for the addresses in it.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attr).cast::<libc::c_void>(), 128) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as RawFd) }
}

#[allow(unsafe_code, reason = "a descriptor that the kernel has just made")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: bpf(2) has returned this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// So often a load is tried that a signal ended.
const TRIES: u32 = 16;

/// Loads a device program.
pub fn load(program: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Attr::new()
        .word(0, PROG_TYPE_CGROUP_DEVICE)
        .word(4, program.len() as u32)
        .pointer(8, program.as_ptr() as u64)
        .pointer(16, license.as_ptr() as u64);
    let mut tries = 0;
    loop {
        // SAFETY: instructions and license are alive for the call and only read; the count is that of the slice.
        #[allow(unsafe_code, reason = "bpf(2)")]
        let done = unsafe { bpf(PROG_LOAD, &mut attr) };
        tries += 1;
        match done {
            // the verifier gives up where a signal waits for the thread, and is to be asked again (kernel/bpf/verifier.c)
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && tries < TRIES => {}
            done => return done.map(owned),
        }
    }
}

/// Puts a program on a cgroup, beside those that are there, or in the place of one.
pub fn attach(cgroup: &impl AsRawFd, program: &OwnedFd, flags: u32, instead: Option<&OwnedFd>) -> io::Result<()> {
    let flags = if instead.is_some() && flags & ALLOW_MULTI != 0 { flags | REPLACE } else { flags };
    let mut attr = Attr::new()
        .word(0, cgroup.as_raw_fd() as u32)
        .word(4, program.as_raw_fd() as u32)
        .word(8, CGROUP_DEVICE)
        .word(12, flags);
    if flags & REPLACE != 0
        && let Some(instead) = instead
    {
        attr = attr.word(16, instead.as_raw_fd() as u32);
    }
    // SAFETY: this command has no addresses.
    #[allow(unsafe_code, reason = "bpf(2)")]
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(|_| ())
}

/// Numbers of the programs that a cgroup has itself, and the flags with which they were put there.
pub fn programs(cgroup: &impl AsRawFd) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = vec![0u32; PROGRAMS];
    let mut attr = Attr::new()
        .word(0, cgroup.as_raw_fd() as u32)
        .word(4, CGROUP_DEVICE)
        .pointer(16, ids.as_mut_ptr() as u64)
        .word(24, PROGRAMS as u32);
    // SAFETY: `ids` is alive for the call, writable, and as long as is said.
    #[allow(unsafe_code, reason = "bpf(2)")]
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    ids.truncate(attr.read(24) as usize);
    Ok((ids, attr.read(12)))
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::new().word(0, id);
    // SAFETY: this command has no addresses.
    #[allow(unsafe_code, reason = "bpf(2)")]
    unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }.map(owned)
}

/// A program's instructions.
pub fn instructions(program: &OwnedFd) -> io::Result<Vec<Insn>> {
    // struct bpf_prog_info: length of the instructions at 20, their address at 32
    let ask = |room: &mut [Insn]| -> io::Result<usize> {
        let mut info = Attr::new().word(20, size_of_val(room) as u32).pointer(32, room.as_mut_ptr() as u64);
        let mut attr = Attr::new().word(0, program.as_raw_fd() as u32).word(4, 128).pointer(8, (&raw mut info) as u64);
        // SAFETY: `info` is 128 writable bytes, and says of `room` its address and its length in bytes; both are alive.
        #[allow(unsafe_code, reason = "bpf(2)")]
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Ok(info.read(20) as usize / size_of::<Insn>())
    };
    let count = ask(&mut [])?;
    if count == 0 || count > LONGEST {
        return Err(io::Error::other(format!("its {count} instructions cannot be read (kernel.bpf_stats, CAP_BPF?)")));
    }
    let mut room = vec![[0; 8]; count];
    let again = ask(&mut room)?;
    if again != count { Err(io::Error::other("it changed while it was read")) } else { Ok(room) }
}

/// Allows devices in a cgroup in addition. The answer is how many programs were replaced; none: nothing ruled its
/// devices.
pub fn allow(cgroup: &impl AsRawFd, rules: &[Rule]) -> io::Result<usize> {
    let (ids, flags) = programs(cgroup)?;
    for id in &ids {
        let old = by_id(*id)?;
        let new = load(&before(rules, &instructions(&old)?))?;
        attach(cgroup, &new, flags, Some(&old))?;
    }
    Ok(ids.len())
}
