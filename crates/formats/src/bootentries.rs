//! What boot loaders will boot: entries of the Boot Loader Specification (systemd-boot, Fedora's GRUB) and the
//! `linux` lines of a generated grub.cfg. Read-only: these files are generated, and edited at their source.

/// One entry file, `loader/entries/*.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderEntry {
    pub title: Option<String>,
    pub version: Option<String>,
    /// Path on the boot partition.
    pub linux: Option<String>,
    pub initrd: Vec<String>,
    /// All `options` lines, joined by a space, with the line (1-based) of the first.
    pub options: Option<(u32, String)>,
    /// `efi` instead of `linux`: a unified kernel image carries its own command line.
    pub efi: Option<String>,
}

impl LoaderEntry {
    pub fn parse(text: &str) -> Self {
        let mut this =
            LoaderEntry { title: None, version: None, linux: None, initrd: vec![], options: None, efi: None };
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once(|c: char| c.is_ascii_whitespace()) else { continue };
            let value = value.trim().to_owned();
            match key {
                "title" => this.title = Some(value),
                "version" => this.version = Some(value),
                "linux" => this.linux = Some(value),
                "initrd" => this.initrd.push(value),
                "efi" | "uki" => this.efi = Some(value),
                "options" => match &mut this.options {
                    Some((_, options)) => {
                        options.push(' ');
                        options.push_str(&value);
                    }
                    none => *none = Some((u32::try_from(at + 1).unwrap_or(u32::MAX), value)),
                },
                _ => {}
            }
        }
        this
    }
}

/// One `linux` line of a grub.cfg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrubLinux {
    /// 1-based.
    pub line: u32,
    /// The menu entry that it belongs to.
    pub title: String,
    /// `/boot/vmlinuz-…`, as GRUB sees it (without `/boot` where that is its own partition).
    pub kernel: String,
    /// The command line behind the kernel's name.
    pub args: String,
}

/// The `linux` lines of a generated grub.cfg, in the file's order. The first one is what boots by default, unless
/// `GRUB_DEFAULT` or the saved entry says otherwise.
pub fn grub_linux(text: &str) -> Vec<GrubLinux> {
    let mut found = Vec::new();
    let mut title = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("menuentry ") {
            title = quoted(rest);
            continue;
        }
        let mut words = line.splitn(2, |c: char| c.is_ascii_whitespace());
        let (Some("linux" | "linux16" | "linuxefi"), Some(rest)) = (words.next(), words.next()) else { continue };
        let rest = rest.trim();
        let (kernel, args) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
        found.push(GrubLinux {
            line: u32::try_from(at + 1).unwrap_or(u32::MAX),
            title: title.clone(),
            kernel: kernel.to_owned(),
            args: args.trim().to_owned(),
        });
    }
    found
}

/// The first shell word of a menuentry line, quotes off.
fn quoted(text: &str) -> String {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.split(quote).next().unwrap_or_default().to_owned();
        }
    }
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_with_two_options_lines() {
        let entry = LoaderEntry::parse(
            "# made\ntitle   Proxmox VE\nversion 6.8.4-2-pve\noptions root=ZFS=rpool/ROOT/pve-1 boot=zfs\noptions quiet\nlinux /EFI/proxmox/6.8.4-2-pve/vmlinuz\ninitrd /EFI/a\ninitrd /EFI/b\n",
        );
        assert_eq!(entry.options, Some((4, "root=ZFS=rpool/ROOT/pve-1 boot=zfs quiet".into())));
        assert_eq!(entry.initrd.len(), 2);
        assert_eq!(entry.version.as_deref(), Some("6.8.4-2-pve"));
    }

    #[test]
    fn the_linux_lines_with_their_menu_entry() {
        let text = "set x=1\nmenuentry 'Proxmox VE' --class a {\n\tlinux\t/boot/vmlinuz-5 root=/dev/sda ro  quiet\n}\nsubmenu 'more' {\n menuentry \"old\" {\n  linux16 /vmlinuz\n }\n}\n";
        let found = grub_linux(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].title.as_str()), (3, "Proxmox VE"));
        assert_eq!(found[0].args, "root=/dev/sda ro  quiet");
        assert_eq!(
            (found[1].title.as_str(), found[1].kernel.as_str(), found[1].args.as_str()),
            ("old", "/vmlinuz", "")
        );
    }

    proptest! {
        #[test]
        fn random_text_never_panics_and_lines_are_within(text in "(menuentry|linux|options|[ \"'a={}\\PC\n]){0,40}") {
            let count = text.lines().count() as u32;
            prop_assert!(grub_linux(&text).iter().all(|l| l.line >= 1 && l.line <= count));
            LoaderEntry::parse(&text);
        }
    }
}
