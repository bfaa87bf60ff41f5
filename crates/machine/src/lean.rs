//! Keeps a process that runs for months small: one heap, and the pages of code given back that only the start needed.
//!
//! A touch of one page of a program's file maps the fifteen around it (the kernel's fault-around), so that after the start most
//! of the code counts as this process's memory though little of it ever runs again. Without its mapping a page stays in the
//! page cache and comes back at a touch, in microseconds.

use std::time::Duration;

/// The first time: when the first look and the registration are over.
pub const FIRST: Duration = Duration::from_secs(2);
/// What a burst touched is given back too: some forty pages come back at a touch, a millisecond in all.
pub const AGAIN: Duration = Duration::from_secs(10);

/// Has all threads share one heap: each would begin one of its own, and most ask for a few bytes only. Before any thread is started.
pub fn one_heap() {
    // SAFETY: mallopt(3) changes nothing but the allocator's own parameters, and is called while there is one thread.
    #[allow(unsafe_code, reason = "the C library has no other way to say it")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// A mapping of a file's code of which no page was changed, as addresses.
type Span = (usize, usize);

/// Of /proc/PID/smaps (proc_pid_smaps(5)): private mappings of this program's own file, of the C library and of the loader that may
/// be read and never written, code and constants, with no page of their own. A page that a relocation changed would be one
/// (`Anonymous`), and could not be read again from the file. Libraries that may be unloaded (the driver's) are left alone.
fn unchanged_pages(smaps: &str, own: &str) -> Vec<Span> {
    let stays = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        path == own || name.starts_with("libc.so.") || name.starts_with("ld-linux-")
    };
    let mut found = Vec::new();
    let mut at: Option<Span> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next().unwrap_or_default(), words.next()) {
            ("Anonymous:", Some(kib)) => found.extend(at.take().filter(|_| kib == "0")),
            (range, Some("r-xp" | "r--p")) => {
                let file = words.nth(3).is_some_and(stays);
                let ends = range.split_once('-');
                let hex = |text: &str| usize::from_str_radix(text, 16).ok();
                at = ends.and_then(|(from, to)| Some((hex(from)?, hex(to)?))).filter(|(from, to)| file && from < to);
            }
            (name, _) if !name.ends_with(':') => at = None,
            _ => {}
        }
    }
    found
}

/// Does it. What cannot be read or given back stays: nothing rests on it.
pub fn settle() {
    let (Ok(smaps), Ok(own)) = (std::fs::read_to_string("/proc/self/smaps"), std::fs::read_link("/proc/self/exe"))
    else {
        return;
    };
    // SAFETY: malloc_trim(3) gives free pages back to the kernel; it takes the allocator's locks as malloc does.
    #[allow(unsafe_code, reason = "the C library has no other way to say it")]
    unsafe {
        libc::malloc_trim(0);
    }
    for (from, to) in unchanged_pages(&smaps, &own.to_string_lossy()) {
        let start = std::ptr::with_exposed_provenance_mut(from);
        // SAFETY: the span is a private file mapping of this process without write permission and without one changed page, so
        // that each page dropped is read again from the same file with the same bytes at its next touch, by any thread. What
        // was mapped at the program's start (itself, the C library, the loader) is never unmapped, so nothing else is there.
        #[allow(unsafe_code, reason = "rustix's madvise is unsafe: it can drop what was written")]
        unsafe {
            let _ = rustix::mm::madvise(start, to - from, rustix::mm::Advice::LinuxDontNeed);
        }
    }
}

/// Does it again and again, in a thread of its own for as long as the process lives. Without a thread nothing is given back.
pub fn keep() {
    let again = || {
        std::thread::sleep(FIRST);
        loop {
            settle();
            std::thread::sleep(AGAIN);
        }
    };
    let _ = std::thread::Builder::new().name("lean".into()).stack_size(128 << 10).spawn(again);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_that_nobody_changed_and_nothing_else() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 7 /usr/bin/thruway-node
Rss: 8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 7                          /usr/bin/thruway-node
Rss: 8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
a000-b000 r-xp 00000000 fe:00 10 /usr/lib/libnvidia-ml.so.1
Anonymous:             0 kB
c000-d000 r-xp 00000000 fe:00 11 /usr/lib/libc.so.6
Anonymous:             0 kB
5000-6000 rw-p 00004000 fe:00 7 /usr/bin/thruway-node
Anonymous:             4 kB
6000-7000 r-xp 00000000 fe:00 8 /lib64/ld-linux-x86-64.so.2
Anonymous:             4 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
8000-9000 rwxp 00000000 fe:00 7 /usr/bin/thruway-node
Anonymous:             0 kB
";
        assert_eq!(
            unchanged_pages(smaps, "/usr/bin/thruway-node"),
            [(0x1000, 0x3000), (0x3000, 0x5000), (0xc000, 0xd000)]
        );
        assert_eq!(unchanged_pages("", ""), []);
    }

    /// The code that runs afterwards is read again from its file.
    #[test]
    fn the_process_goes_on() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
            text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages")
        };
        // other tests run beside this one
        let fell = |_| {
            let before = resident();
            settle();
            resident() < before
        };
        assert!((0..50).any(fell), "nothing was given back");
    }
}
