//! How whoever starts a container gets to read a sentence: in the low-level runtime's own log, in its form, since that is
//! where docker and containerd take the reason from; and on stderr.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where sentences go.
#[derive(Clone, Debug, Default)]
pub struct Say {
    /// runc's `--log`.
    pub log: Option<PathBuf>,
    /// runc's `--log-format json`.
    pub json: bool,
    /// The settings' `debug`.
    pub debug: Option<PathBuf>,
    pub name: &'static str,
}

impl Say {
    pub fn error(&self, says: &str) {
        self.write("error", says);
        self.stderr(says);
    }

    /// A container that starts shows no stderr to anyone, and one that is watched should not be spoken into.
    pub fn warning(&self, says: &str) {
        self.write("warning", says);
        if self.log.is_none() {
            self.stderr(&format!("warning: {says}"));
        }
    }

    pub fn info(&self, says: &str) {
        if let Some(debug) = &self.debug {
            append(debug, &text("info", says));
        }
    }

    fn write(&self, level: &str, says: &str) {
        if let Some(log) = &self.log {
            append(log, &if self.json { json(level, says) } else { text(level, says) });
        }
        if let Some(debug) = &self.debug {
            append(debug, &text(level, says));
        }
    }

    fn stderr(&self, says: &str) {
        // a closed stderr is no reason to fail
        let _ = writeln!(std::io::stderr(), "{}: {says}", self.name);
    }
}

fn append(path: &std::path::Path, line: &str) {
    // a log that cannot be written changes nothing of what is done
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn json(level: &str, says: &str) -> String {
    format!("{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{}\"}}\n", oci::json::quoted(says), now())
}

fn text(level: &str, says: &str) -> String {
    format!("time=\"{}\" level={level} msg={}\n", now(), oci::json::quoted(says))
}

fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// RFC 3339 in UTC; days to a date as in Howard Hinnant's chrono algorithms.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_764_108_245), "2025-11-25T22:04:05Z");
    }

    #[test]
    fn a_line_is_json_whatever_it_says() {
        let line = json("error", "a \"quoted\"\nline");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["msg"], "a \"quoted\"\nline");
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
    }
}
