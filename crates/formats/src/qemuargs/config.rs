//! The files of QEMU's `-readconfig`: `[group "id"]` and `key = "value"` below it.

use super::Opts;

/// The groups in the file's order, each with the id of its header as its option `id`. Lines that are neither group,
/// option, comment (`#`) nor blank are left out: QEMU itself refuses such a file, so no process runs with one.
pub(super) fn groups(text: &str) -> Vec<(String, Opts)> {
    let mut found: Vec<(String, Opts)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (group, id) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
            let id = unquoted(id);
            let opts = if id.is_empty() { Vec::new() } else { vec![("id".to_owned(), id.to_owned())] };
            found.push((group.to_owned(), Opts(opts)));
        } else if let (Some((key, value)), Some((_, opts))) = (line.split_once('='), found.last_mut()) {
            opts.0.push((key.trim().to_owned(), unquoted(value).to_owned()));
        }
    }
    found
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}
