//! dpkg's status file and apt's package lists: stanzas of `Field: value` lines, parted by empty lines. Read only.

/// One stanza's fields that we use, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// "install ok installed"; empty in apt's lists, which have no such field.
    pub status: String,
    /// Where the stanza's `Package:` line stands, 1-based.
    pub line: u32,
}

impl Package {
    /// Unpacked and configured. Removed packages whose configuration stays have a stanza too.
    pub fn installed(&self) -> bool {
        let mut words = self.status.split_whitespace();
        words.nth(2) == Some("installed")
    }
}

/// The version of this package, where it is installed.
pub fn installed(text: &str, name: &str) -> Option<String> {
    let found = packages(text, |package| package == name);
    found.into_iter().find(Package::installed).map(|package| package.version)
}

/// The stanzas whose package name is wanted. Anything that is no stanza is passed by: dpkg itself owns the format.
pub fn packages(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<Package> {
    let mut all = Vec::new();
    let mut this: Option<Package> = None;
    for (number, line) in (1u32..).zip(text.lines()) {
        if line.trim().is_empty() {
            all.extend(this.take());
            continue;
        }
        // A continuation of the field above: never one of ours.
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if field.eq_ignore_ascii_case("Package") {
            all.extend(this.take());
            this = wanted(value).then(|| Package {
                name: value.to_owned(),
                version: String::new(),
                architecture: String::new(),
                status: String::new(),
                line: number,
            });
        } else if let Some(this) = &mut this {
            let slot = match field {
                _ if field.eq_ignore_ascii_case("Version") => &mut this.version,
                _ if field.eq_ignore_ascii_case("Architecture") => &mut this.architecture,
                _ if field.eq_ignore_ascii_case("Status") => &mut this.status,
                _ => continue,
            };
            value.clone_into(slot);
        }
    }
    all.extend(this);
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATUS: &str = "Package: gcc\nStatus: install ok installed\nVersion: 4:9.3.0-1ubuntu2\n\n\
        Package: nvidia-driver-510\nStatus: deinstall ok config-files\nArchitecture: amd64\nDescription: x\n Package: fake\nVersion: 510.54-0\n";

    #[test]
    fn stanzas_are_read_and_continuations_are_not() {
        let all = packages(STATUS, |_| true);
        assert_eq!(all.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["gcc", "nvidia-driver-510"]);
        assert_eq!(all.iter().map(Package::installed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(all.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(all.get(1).map(|p| (p.version.as_str(), p.architecture.as_str())), Some(("510.54-0", "amd64")));
        assert_eq!(packages(STATUS, |name| name.starts_with("nvidia")).len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_lines_are_in_it(text in "(Package: ?[a-z]{0,4}\n|Version: 1\n|\n|[ -~]{0,9}\n){0,20}") {
            let lines = text.lines().count() as u32;
            for package in packages(&text, |_| true) {
                prop_assert!(package.line >= 1 && package.line <= lines);
            }
        }
    }
}
