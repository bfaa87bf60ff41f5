//! What the console shows that the machine does, between the lines that the guest's script says.

/// What stands on the console, and what it means.
const MARKS: &[(&str, &str)] = &[
    ("Loading Linux ", "GRUB loads the kernel"),
    ("Loading initial ramdisk", "GRUB loads the initramfs"),
    ("Linux version ", "the kernel starts"),
    ("Run /init as init process", "the initramfs runs"),
    ("running in system mode", "systemd starts"),
    ("reboot: Restarting system", "the machine restarts"),
];
/// The mark of a boot: the kernel's first words.
const BOOT: usize = 2;
/// The mark after which the next boot has begun.
const RESTART: usize = 5;

/// Where the machine is.
#[derive(Default)]
pub struct Progress {
    boots: u32,
    last: Option<usize>,
}

impl Progress {
    /// Which boot it is, 1 for the first. A boot begins with its boot loader.
    pub fn boots(&self) -> u32 {
        let before_the_kernel = self.last.is_none_or(|mark| mark < BOOT);
        self.boots + u32::from(before_the_kernel)
    }

    /// The machine starts anew without a word: its power was cut.
    pub fn restarted(&mut self) {
        self.last = Some(RESTART);
    }

    /// Takes a line of the console; answers with what the machine does now, where that is news.
    pub fn hear(&mut self, line: &str) -> Option<&'static str> {
        let (mark, (_, what)) = MARKS.iter().enumerate().find(|(_, (text, _))| line.contains(text))?;
        if self.last == Some(mark) {
            return None;
        }
        // Of one boot the marks come in their order; what a later command prints is no boot.
        if mark != BOOT && mark != RESTART && self.last.is_some_and(|last| last != RESTART && mark < last) {
            return None;
        }
        self.boots += u32::from(mark == BOOT);
        self.last = Some(mark);
        Some(what)
    }
}

/// Whether nothing more is to come: the kernel has panicked, or a shell waits for a human.
pub fn dead(line: &str) -> bool {
    ["Kernel panic - not syncing", "(initramfs)", "Press Enter for maintenance", "grub rescue>"]
        .iter()
        .any(|text| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_counted_from_the_boot_loader_on() {
        let mut progress = Progress::default();
        assert_eq!(progress.boots(), 1);
        assert_eq!(progress.hear("Loading Linux 6.1.0-56-amd64 ...\r"), Some("GRUB loads the kernel"));
        assert_eq!(progress.hear("[    0.000000] Linux version 6.1.0-56-amd64"), Some("the kernel starts"));
        assert_eq!(progress.hear("[    0.000000] Linux version 6.1.0-56-amd64"), None);
        assert_eq!(progress.hear("[    5.1] systemd[1]: systemd 252 running in system mode"), Some("systemd starts"));
        assert_eq!(progress.hear("[    5.2] vfio_pci: add"), None);
        assert_eq!(progress.hear("Loading Linux, said a command"), None);
        assert_eq!(progress.boots(), 1);
        assert_eq!(progress.hear("[   90.0] reboot: Restarting system"), Some("the machine restarts"));
        assert_eq!(progress.boots(), 1);
        assert_eq!(progress.hear("Loading Linux 6.1.0-56-amd64 ..."), Some("GRUB loads the kernel"));
        assert_eq!(progress.boots(), 2);
        assert!(progress.hear("Linux version 6.1").is_some());
        assert_eq!(progress.boots(), 2);
        progress.restarted();
        assert!(progress.hear("Loading Linux 6.1.0-56-amd64 ...").is_some());
        assert_eq!(progress.boots(), 3);
    }

    #[test]
    fn a_dead_machine_is_known() {
        assert!(dead("[    2.0] Kernel panic - not syncing: VFS"));
        assert!(dead("(initramfs) "));
        assert!(!dead("[    2.0] Run /init as init process"));
    }
}
