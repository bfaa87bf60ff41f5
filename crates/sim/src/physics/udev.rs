//! What sets a `driver_override` at boot: udev rules, and initramfs scripts.

use crate::pci::Pci;

/// One driver to force, on the functions that match.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Override {
    /// Match keys of a rule: (key, value).
    matches: Vec<(String, String)>,
    pub driver: String,
    /// Functions that hold a driver already are unbound and probed again.
    pub probes: bool,
    /// Modules that the rule or script loads.
    pub loads: Vec<String>,
}

impl Override {
    pub fn matches(&self, function: &Pci) -> bool {
        let subsystem = function.subsystem.unwrap_or(model::PciId::new(0, 0));
        self.matches.iter().all(|(key, value)| {
            let is = match key.as_str() {
                "KERNEL" | "KERNELS" => function.bdf.to_string(),
                "SUBSYSTEM" | "SUBSYSTEMS" => "pci".into(),
                "ACTION" => return value.split('|').any(|action| action == "add"),
                "ATTR{vendor}" | "ATTRS{vendor}" => format!("0x{:04x}", function.id.vendor),
                "ATTR{device}" | "ATTRS{device}" => format!("0x{:04x}", function.id.device),
                "ATTR{subsystem_vendor}" | "ATTRS{subsystem_vendor}" => format!("0x{:04x}", subsystem.vendor),
                "ATTR{subsystem_device}" | "ATTRS{subsystem_device}" => format!("0x{:04x}", subsystem.device),
                "ATTR{class}" | "ATTRS{class}" => format!("0x{:06x}", function.class_number()),
                _ => return false,
            };
            value.split('|').any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => is.starts_with(start),
                None => is == pattern,
            })
        })
    }
}

/// The rules of one file that assign a `driver_override`.
pub(crate) fn rules(text: &str) -> Vec<Override> {
    let mut rules = Vec::new();
    for line in text.replace("\\\n", " ").lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut rule = Override::default();
        for part in split(line) {
            if let Some((key, value)) = part.split_once("==") {
                rule.matches.push((key.trim().into(), unquote(value)));
            } else if let Some((key, value)) = part.split_once("+=").or_else(|| part.split_once('=')) {
                let value = unquote(value);
                match key.trim() {
                    "ATTR{driver_override}" => rule.driver = value,
                    key if key.starts_with("RUN") => {
                        rule.probes |= value.contains("drivers_probe");
                        rule.loads.extend(loads(&value));
                    }
                    _ => {}
                }
            }
        }
        if !rule.driver.is_empty() {
            rules.push(rule);
        }
    }
    rules
}

/// A rule's parts: commas inside quotes do not part.
fn split(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(line[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn unquote(text: &str) -> String {
    text.trim().trim_matches('"').into()
}

fn loads(text: &str) -> Vec<String> {
    let mut words = text.split([' ', ';', ',', '\t', '"', '\'']).skip_while(|word| !word.ends_with("modprobe"));
    words.next();
    words.find(|word| !word.is_empty() && !word.starts_with('-')).map(super::modprobe::name).into_iter().collect()
}

/// What an initramfs script does to `driver_override`: the addresses it names, the driver it writes, whether it probes,
/// what it loads. A script that does not say "driver_override" does nothing of interest.
pub(crate) fn script(text: &str) -> Vec<Override> {
    let code: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let text = code.join("\n");
    if !text.contains("driver_override") {
        return Vec::new();
    }
    let driver = if text.contains("vfio-pci") { "vfio-pci" } else { return Vec::new() };
    let loads: Vec<String> = code.iter().flat_map(|line| loads(line)).collect();
    let probes = text.contains("drivers_probe") || text.contains("/unbind");
    let mut found: Vec<Override> = Vec::new();
    for line in &code {
        let words: Vec<&str> = line.split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.')).collect();
        let ids: Vec<model::PciId> = words.iter().filter_map(|word| word.parse().ok()).collect();
        for bdf in words.iter().filter_map(|word| word.parse::<model::Bdf>().ok()) {
            let mut matches = vec![("KERNEL".to_owned(), bdf.to_string())];
            // An address that stands with identities is meant only while the function there has them.
            for (prefix, id) in ["", "subsystem_"].into_iter().zip(&ids) {
                matches.push((format!("ATTR{{{prefix}vendor}}"), format!("0x{:04x}", id.vendor)));
                matches.push((format!("ATTR{{{prefix}device}}"), format!("0x{:04x}", id.device)));
            }
            if !found.iter().any(|known| known.matches == matches) {
                found.push(Override { matches, driver: driver.into(), probes, loads: loads.clone() });
            }
        }
    }
    found
}

/// Modules that an image's configuration loads before or beside udev: initramfs-tools' `force_load`, dracut's
/// `force_drivers`, mkinitcpio's `MODULES`. (first, later)
pub(crate) fn forced(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let words = |text: &str| -> Vec<String> {
            let words = text.split([' ', '"', '(', ')', '\'', '\t', '=', '+']).filter(|word| !word.is_empty());
            // Shell of the file's own, such as "${MODULES[@]}", names no module.
            let words = words.filter(|word| !word.contains(['$', '{', '@']));
            words.map(super::modprobe::name).collect()
        };
        if let Some(rest) = line.strip_prefix("force_load ") {
            later.extend(words(rest));
        } else if let Some(rest) = line.strip_prefix("force_drivers").or_else(|| line.strip_prefix("MODULES")) {
            first.extend(words(rest));
        }
    }
    (first, later)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_that_assigns_and_loads() {
        let text = "# comment\nACTION==\"add\", KERNEL==\"0000:26:00.0\", \\\n  ATTR{driver_override}=\"vfio-pci\", RUN+=\"/sbin/modprobe -q vfio-pci, x\"\n";
        let found = rules(text);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].driver.as_str(), found[0].loads.as_slice()),
            ("vfio-pci", ["vfio_pci".to_owned()].as_slice())
        );
        assert_eq!(found[0].matches.len(), 2);
    }

    #[test]
    fn a_script_in_comments_does_nothing() {
        assert_eq!(script("# echo vfio-pci > /sys/bus/pci/devices/0000:26:00.0/driver_override\n"), []);
        let found = script("echo vfio-pci > /sys/bus/pci/devices/0000:26:00.0/driver_override\nmodprobe vfio-pci\n");
        assert_eq!(
            (found.len(), found[0].probes, found[0].loads.as_slice()),
            (1, false, ["vfio_pci".to_owned()].as_slice())
        );
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(text in "\\PC*|[a-z{}\"=,+ \\\\\n]*") {
            rules(&text);
            script(&text);
            crate::physics::loader::assign(&mut Default::default(), &text);
        }
    }
}
