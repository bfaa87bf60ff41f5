//! What boot loaders will boot: entries of the Boot Loader Specification (systemd-boot, Fedora's GRUB), the `linux`
//! lines of a generated grub.cfg, and GRUB's environment block. Most of these are generated, and edited at their
//! source; entries that a person wrote are their own source, and [`edit_options`] changes their command line alone.

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

/// The entry with its command line changed, and no other byte. `change` gets the text of each `options` line, and
/// whether it is the last one: what is added goes there. The specification joins several such lines by a space.
/// An entry without `options` gets such a line at its end.
pub fn edit_options(text: &str, change: impl Fn(&str, bool) -> String) -> String {
    let is_options = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("options").is_some_and(|rest| rest.starts_with([' ', '\t']))
    };
    let last = text.split_inclusive('\n').filter(|line| is_options(line)).count();
    let mut seen = 0;
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if !is_options(line) {
            out.push_str(line);
            continue;
        }
        seen += 1;
        let bare = line.trim_end_matches(['\n', '\r']);
        let end = line.get(bare.len()..).unwrap_or_default();
        let key = bare.len() - bare.trim_start().len() + "options".len();
        let value = key + bare[key..].len() - bare[key..].trim_start().len();
        let (front, value) = bare.split_at(value);
        out.push_str(front);
        out.push_str(&change(value, seen == last));
        out.push_str(end);
    }
    if last == 0 {
        let added = change("", true);
        if !added.is_empty() {
            let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { end };
            out.push_str(&format!("{gap}options {added}{end}"));
        }
    }
    out
}

/// A name's value in GRUB's environment block (`grubenv`: lines of `name=value`, filled up with `#`).
pub fn grubenv<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
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

    #[test]
    fn only_the_command_line_of_an_entry_changes() {
        let text = "# mine\r\ntitle\tArch\r\noptions\troot=/dev/sda2 rw\r\noptions quiet \r\nlinux /vmlinuz\r\n";
        let more = edit_options(text, |line, last| if last { format!("{line} a=b") } else { line.to_owned() });
        assert_eq!(more, text.replace("options quiet ", "options quiet  a=b"));
        assert_eq!(edit_options("linux /x", |_, _| "a".into()), "linux /x\noptions a\n");
        assert_eq!(edit_options("optionsx y\n", |_, _| String::new()), "optionsx y\n");
    }

    #[test]
    fn the_environment_block() {
        let text = "# GRUB Environment Block\nsaved_entry=0123-6.11\nkernelopts=root=/dev/sda1 ro\n######";
        assert_eq!(grubenv(text, "saved_entry"), Some("0123-6.11"));
        assert_eq!(grubenv(text, "kernelopts"), Some("root=/dev/sda1 ro"));
        assert_eq!(grubenv(text, "none"), None);
    }

    proptest! {
        #[test]
        fn an_edit_that_changes_nothing_keeps_every_byte(
            text in "(options[ \t]{0,2}|linux |title |\r\n|\n|#|[a-z=\"\\PC]){0,40}"
        ) {
            // An empty line must not be added to an entry that has none.
            let same = edit_options(&text, |line, _| line.to_owned());
            prop_assert_eq!(&same, &text);
            let more = edit_options(&text, |line, last| if last { format!("{line} zz=1") } else { line.to_owned() });
            let options = LoaderEntry::parse(&more).options.map_or(String::new(), |(_, options)| options);
            let there = crate::kcmdline::Cmdline::parse(&options).to_string().contains("zz=1");
            prop_assert!(there, "{more:?}");
        }

        #[test]
        fn random_text_never_panics_and_lines_are_within(text in "(menuentry|linux|options|[ \"'a={}\\PC\n]){0,40}") {
            let count = text.lines().count() as u32;
            prop_assert!(grub_linux(&text).iter().all(|l| l.line >= 1 && l.line <= count));
            LoaderEntry::parse(&text);
        }
    }
}
