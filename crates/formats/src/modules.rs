//! Lists of kernel modules to load: `/etc/modules`, `/etc/modules-load.d/*.conf`, `/etc/initramfs-tools/modules`.
//!
//! One module a line, with parameters behind it in the older two; `#` and `;` begin a comment line, and in
//! `/etc/modules` also the rest of a line. Lines are kept as they stand, line ends included.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleList {
    /// Each with its line end.
    lines: Vec<String>,
}

/// One module that is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1-based.
    pub line: u32,
    pub name: String,
    pub args: Vec<String>,
}

impl ModuleList {
    pub fn parse(text: &str) -> Self {
        ModuleList { lines: text.split_inclusive('\n').map(str::to_owned).collect() }
    }

    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(at, line): (usize, &String)| {
            let text = line.split('#').next().unwrap_or_default().trim();
            let mut words = text.split_whitespace().map(str::to_owned);
            let name = words.next().filter(|name| !name.starts_with(';'))?;
            Some(Entry { line: u32::try_from(at + 1).unwrap_or(u32::MAX), name, args: words.collect() })
        };
        self.lines.iter().enumerate().filter_map(entry).collect()
    }

    /// True where the module is listed; a dash equals an underscore.
    pub fn has(&self, module: &str) -> bool {
        self.entries().iter().any(|entry| same_module(&entry.name, module))
    }

    /// Takes the lines of these modules out, as `gone` names them; everything else stays.
    pub fn remove(&mut self, gone: impl Fn(&str) -> bool) {
        let lines: Vec<u32> = self.entries().into_iter().filter(|e| gone(&e.name)).map(|e| e.line).collect();
        let mut at = 0;
        self.lines.retain(|_| {
            at += 1;
            !lines.contains(&at)
        });
    }
}

impl fmt::Display for ModuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| f.write_str(line))
    }
}

/// `vfio-pci` and `vfio_pci` are one module.
pub fn same_module(left: &str, right: &str) -> bool {
    crate::kcmdline::same_name(left, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_arguments_and_line_ends() {
        let text = "# kernel modules\r\n\r\nvfio\r\nvfio-pci ids=10de:1d01 # the card\r\n;off\r\nloop max_loop=8";
        let mut list = ModuleList::parse(text);
        let entries = list.entries();
        assert_eq!(
            entries.iter().map(|e| (e.line, e.name.as_str())).collect::<Vec<_>>(),
            [(3, "vfio"), (4, "vfio-pci"), (6, "loop")]
        );
        assert_eq!(entries[1].args, ["ids=10de:1d01"]);
        assert!(list.has("vfio_pci") && !list.has("off"));
        list.remove(|name| same_module(name, "vfio_pci"));
        assert_eq!(list.to_string(), "# kernel modules\r\n\r\nvfio\r\n;off\r\nloop max_loop=8");
    }

    proptest! {
        #[test]
        fn any_text_is_kept(text in "\\PC*|[a-z #;\r\n]{0,60}") {
            let mut list = ModuleList::parse(&text);
            prop_assert_eq!(list.to_string(), text);
            list.remove(|_| true);
            prop_assert!(list.entries().is_empty());
        }
    }
}
