//! Someone edited a file that we had changed: show both edits against what was there first.

use std::fmt::Write as _;

use similar::TextDiff;

/// Two diffs from one base: what thruway changed, and what was changed since.
pub(crate) fn three_way(path: &str, was: &[u8], ours: &[u8], now: &[u8]) -> String {
    let [was, ours, now] = [was, ours, now].map(String::from_utf8_lossy);
    let mut text = String::new();
    let mut part = |title: &str, old: &str, new: &str, from: &str, to: &str| {
        let diff = TextDiff::from_lines(old, new);
        let _ = writeln!(text, "{title}");
        let _ = write!(text, "{}", diff.unified_diff().context_radius(2).header(from, to));
    };
    let (before, left, here) =
        (format!("{path} (before)"), format!("{path} (as thruway left it)"), format!("{path} (now)"));
    part("thruway changed:", &was, &ours, &before, &left);
    part("and since then someone changed:", &ours, &now, &left, &here);
    text
}
