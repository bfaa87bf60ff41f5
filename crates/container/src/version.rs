//! Versions of engines, compared by their numbers.

use std::fmt;

use serde::Serialize;

/// "20.10.12" out of "20.10.12" or "5:20.10.12~3-0~ubuntu-focal".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    pub text: String,
    numbers: Vec<u32>,
}

impl Version {
    /// The upstream version in a package's or a program's; `None` where no number begins it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text
            .split_once(':')
            .map_or(text, |(epoch, rest)| if epoch.bytes().all(|b| b.is_ascii_digit()) { rest } else { text });
        let text = text.trim().trim_start_matches('v');
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let text = text.get(..end)?.trim_end_matches('.');
        let numbers: Vec<u32> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Version { text: text.to_owned(), numbers })
    }

    /// True for this version and later ones; missing numbers count as 0.
    pub fn at_least(&self, wanted: &[u32]) -> bool {
        let number = |numbers: &[u32], at: usize| numbers.get(at).copied().unwrap_or(0);
        let count = self.numbers.len().max(wanted.len());
        let ours = (0..count).map(|at| number(&self.numbers, at));
        ours.ge((0..count).map(|at| number(wanted, at)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn packages_and_programs() {
        let docker = Version::parse("5:20.10.12~3-0~ubuntu-focal").unwrap();
        assert_eq!(docker.text, "20.10.12");
        assert!(docker.at_least(&[20, 10]) && docker.at_least(&[20, 10, 12, 0]) && !docker.at_least(&[25]));
        assert!(Version::parse("1.17.8-1").unwrap().at_least(&[1, 17, 8]));
        assert!(!Version::parse("1.8.0~rc.2-1").unwrap().at_least(&[1, 17, 8]));
        assert_eq!(Version::parse("v2.0.1").unwrap().text, "2.0.1");
        assert_eq!(Version::parse("master"), None);
        assert_eq!(Version::parse("99999999999.1"), None);
    }
}
