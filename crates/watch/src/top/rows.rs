//! Processes as the tables show them.

use std::collections::HashMap;

use gpu::attribution::{Engine, OwnedBy, short};
use model::Seen;

use super::Sort;
use crate::{CardNow, ProcessNow};

/// A process on a card. `None`: not told, which is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub pid: u32,
    /// NVML's index.
    pub card: u32,
    /// "C", "G", "C+G", "M+C".
    pub kind: String,
    /// Bytes.
    pub memory: Option<u64>,
    /// Per cent.
    pub sm: Option<u32>,
    pub encoder: Option<u32>,
    pub decoder: Option<u32>,
    pub user: String,
    pub whose: String,
    pub app: String,
    pub program: String,
}

/// Memory that is used, in per cent.
pub(super) fn share(card: &CardNow) -> Option<u32> {
    let (used, total) = (*card.gpu.memory_used.get()?, *card.gpu.memory_total.get()?);
    u32::try_from(u128::from(used) * 100 / u128::from(total.max(1))).ok()
}

pub(super) fn of(card: &CardNow, users: &HashMap<u32, String>) -> Vec<Row> {
    let index = card.gpu.index;
    let processes = card.processes.get().map(Vec::as_slice).unwrap_or_default();
    processes.iter().map(|process| row(index, process, users)).collect()
}

fn row(card: u32, now: &ProcessNow, users: &HashMap<u32, String>) -> Row {
    let ProcessNow { process, whose: attribution } = now;
    let user = match attribution.user.get() {
        Some(user) => users.get(user).cloned().unwrap_or_else(|| user.to_string()),
        None => "-".into(),
    };
    Row {
        pid: process.pid,
        card,
        kind: process.kind.clone(),
        memory: process.memory.get().copied(),
        sm: process.sm.get().copied(),
        encoder: process.encoder.get().copied(),
        decoder: process.decoder.get().copied(),
        user,
        whose: match &attribution.outer {
            Some(outer) => format!("{} in {}", whose(&attribution.owner), whose(outer)),
            None => whose(&attribution.owner),
        },
        app: attribution.app.clone().unwrap_or_else(|| "-".into()),
        program: program(process.name.get().or(attribution.command.get())),
    }
}

/// In few words: "pod media/jellyfin-0 (server)", "docker films", "VM 100 (media)".
pub fn whose(owner: &OwnedBy) -> String {
    match owner {
        OwnedBy::Pod { container: Some(container), .. } => format!("pod {} ({container})", owner.label()),
        OwnedBy::Pod { .. } => format!("pod {}", owner.label()),
        OwnedBy::Container { engine, .. } if *engine != Engine::Unknown => {
            format!("{} {}", engine.name(), owner.label())
        }
        OwnedBy::Container { id, .. } => format!("container {}", short(id)),
        OwnedBy::Vm { .. } => format!("VM {}", owner.label()),
        OwnedBy::Unit { unit, user: Some(_) } => format!("{unit} (user)"),
        OwnedBy::Process | OwnedBy::Unit { .. } | OwnedBy::System { .. } | OwnedBy::Hidden => owner.label(),
    }
}

/// The program's last part, and the one above where that says more than "bin".
fn program(path: Option<&String>) -> String {
    let Some(path) = path else { return "-".into() };
    const PLAIN: [&str; 8] = ["bin", "sbin", "lib", "lib64", "libexec", "local", "usr", "opt"];
    // a title that a program gave itself may hold a slash and is no path
    let parts: Vec<&str> = match path.starts_with('/') {
        true => path.split('/').filter(|part| !part.is_empty()).collect(),
        false => return path.clone(),
    };
    match parts.as_slice() {
        // "jellyfin-ffmpeg" says all of "jellyfin-ffmpeg/ffmpeg"
        [.., above, last] if above.contains(last) => (*above).to_owned(),
        [.., above, last] if !PLAIN.contains(above) => format!("{above}/{last}"),
        [.., last] => (*last).to_owned(),
        [] => path.clone(),
    }
}

pub(super) fn sort(rows: &mut [Row], by: Sort, reversed: bool) {
    // What is most comes first; what is not told last. Equal ones by card and number, so that nothing jumps.
    rows.sort_by(|a, b| {
        let order = match by {
            Sort::Memory => b.memory.cmp(&a.memory),
            Sort::Sm => b.sm.cmp(&a.sm),
            Sort::Encoder => b.encoder.cmp(&a.encoder),
            Sort::Decoder => b.decoder.cmp(&a.decoder),
            Sort::Whose => a.whose.cmp(&b.whose),
            Sort::Pid => a.pid.cmp(&b.pid),
        };
        let order = if reversed { order.reverse() } else { order };
        order.then((a.card, a.pid).cmp(&(b.card, b.pid)))
    });
}

/// "949 MiB", "79.6 GiB"; "-" where it is not told.
pub(super) fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".into(),
        Some(bytes) if bytes >> 20 < 10_000 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

pub(super) fn per_cent(value: Option<u32>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value} %"))
}

/// As [`per_cent`], in four columns.
pub(super) fn narrow(value: Option<u32>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value}%"))
}

/// The value with its unit, or "-".
pub(super) fn told<T: ToString>(value: &Seen<T>, unit: &str) -> String {
    value.get().map_or_else(|| "-".into(), |value| format!("{}{unit}", value.to_string()))
}

/// Untrusted text must not move the cursor: control characters are shown, not sent.
pub(super) fn tame(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// No longer than this many columns, the end left out.
pub(super) fn cut(text: &str, columns: usize) -> String {
    let text = tame(text);
    if text.chars().count() <= columns {
        return text;
    }
    let short: String = text.chars().take(columns.saturating_sub(1)).collect();
    short + if columns > 0 { "…" } else { "" }
}
