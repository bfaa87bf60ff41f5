//! The same as plain text and as JSON: for pipes, files and those who look once.

use std::fmt::Write as _;

use gpu::Holder;
use model::Seen;
use serde_json::{Value, json};

use super::Sort;
use super::rows::{self, Row, cut, narrow, size, told};
use crate::{Away, Sample};

/// The version of the JSON form.
const SCHEMA: u32 = 1;

/// How wide each column is.
pub(super) struct Columns {
    pid: usize,
    user: usize,
    whose: usize,
    app: usize,
    program: usize,
}

impl Columns {
    /// What these rows need, within so many columns. Where it is narrow users go first; whose and the program share what is left.
    pub(super) fn fitting(rows: &[Row], columns: usize) -> Columns {
        let longest = |get: fn(&Row) -> &String, least: usize, most: usize| {
            rows.iter().map(|row| get(row).chars().count()).max().unwrap_or(0).clamp(least, most)
        };
        let pid = rows.iter().map(|row| row.pid.to_string().len()).max().unwrap_or(0).max(5);
        // GPU, MEMORY, SM, ENC, DEC and the blanks between
        let room = columns.saturating_sub(pid + 28);
        let user = if room >= 80 { longest(|row| &row.user, 4, 10) } else { 0 };
        let room = room.saturating_sub(if user > 0 { user + 2 } else { 0 });
        let app = if room >= 36 { longest(|row| &row.app, 3, 10) } else { 0 };
        let room = room.saturating_sub(if app > 0 { app + 2 } else { 0 }).saturating_sub(4);
        let (whose, program) = (longest(|row| &row.whose, 5, 80), longest(|row| &row.program, 7, 40));
        let program = program.min(room.saturating_sub(whose).max(15)).min(room);
        Columns { pid, user, whose: whose.min(room - program), app, program }
    }

    fn joined(&self, cells: [&str; 10]) -> String {
        let [pid, gpu, memory, sm, encoder, decoder, user, whose, app, program] = cells;
        let mut line =
            format!("{pid:>width$} {gpu:>3} {memory:>8} {sm:>4} {encoder:>4} {decoder:>4}", width = self.pid);
        for (text, width) in [(user, self.user), (whose, self.whose), (app, self.app), (program, self.program)] {
            if width > 0 {
                let text = cut(text, width);
                let _ = write!(line, "  {text:<width$}");
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    pub(super) fn head(&self) -> String {
        self.joined(["PID", "GPU", "MEMORY", "SM", "ENC", "DEC", "USER", "WHOSE", "APP", "PROGRAM"])
    }

    pub(super) fn line(&self, row: &Row) -> String {
        self.joined([
            &row.pid.to_string(),
            &row.card.to_string(),
            &size(row.memory),
            &narrow(row.sm),
            &narrow(row.encoder),
            &narrow(row.decoder),
            &row.user,
            // "media/jellyfin-0" is known for a pod without the word
            row.whose.strip_prefix("pod ").filter(|_| row.whose.chars().count() > self.whose).unwrap_or(&row.whose),
            &row.app,
            &row.program,
        ])
    }
}

/// "26:00.0 GeForce GT 1030", and who has it.
pub(super) fn away(card: &Away) -> (String, String) {
    let driver = match &card.driver {
        Seen::Is(driver) => driver.clone(),
        Seen::Absent => "no driver".into(),
        Seen::Unreadable(_) => "driver unknown".into(),
    };
    let list = |names: &[String]| names.join(", ");
    let who = match &card.holder {
        Holder::Vm(vms) => format!("VM {}", list(vms)),
        Holder::Nobody => "nobody has it".into(),
        Holder::Host(processes) if processes.is_empty() => "no process uses it".into(),
        Holder::Host(processes) => format!("processes {}", list(processes)),
        Holder::Containers(names) => format!("containers {}", list(names)),
        Holder::Pods(names) => format!("pods {}", list(names)),
        Holder::Unknown(why) => format!("unknown: {why}"),
    };
    (format!("{} {}", card.bdf.short(), card.name), format!("{driver}: {who}"))
}

/// A sample as one plain table, for a page so wide.
pub fn once(sample: &Sample, name: &str, users: &std::collections::HashMap<u32, String>, columns: usize) -> String {
    let mut out = rows::tame(name);
    if sample.simulated && !name.contains("simulated") {
        out.push_str(" (simulated)");
    }
    match &sample.driver {
        Seen::Is(version) => out.push_str(&format!("  driver {}\n", rows::tame(version))),
        Seen::Absent => out.push_str("  no NVIDIA driver runs here\n"),
        Seen::Unreadable(why) => out.push_str(&format!("  NVML does not answer: {}\n", rows::tame(&why.to_string()))),
    }
    for card in &sample.cards {
        let gpu = &card.gpu;
        let at = card.bdf.map_or_else(|| "-".into(), |bdf| bdf.short());
        if let Seen::Unreadable(why) = &gpu.name {
            let _ = writeln!(out, "GPU {} {at}  {}", gpu.index, rows::tame(&why.to_string()));
            continue;
        }
        let mib = |seen: &Seen<u64>| seen.get().map_or_else(|| "-".into(), |bytes| (bytes >> 20).to_string());
        let watts = |seen: &Seen<u32>| seen.get().map_or_else(|| "-".into(), |mw| (mw / 1000).to_string());
        let _ = writeln!(
            out,
            "GPU {} {at}  {}: SM {}, encoder {}, decoder {}, {} of {} MiB, {}, {} of {} W",
            gpu.index,
            rows::tame(&told(&gpu.name, "")),
            told(&gpu.utilization_gpu, " %"),
            told(&gpu.utilization_encoder, " %"),
            told(&gpu.utilization_decoder, " %"),
            mib(&gpu.memory_used),
            mib(&gpu.memory_total),
            told(&gpu.temperature, " °C"),
            watts(&gpu.power_draw),
            watts(&gpu.power_limit),
        );
    }
    for card in &sample.away {
        let (card, who) = away(card);
        let _ = writeln!(out, "GPU - {}  {}", rows::tame(&card), rows::tame(&who));
    }
    if sample.cards.is_empty() {
        return out;
    }
    let mut all: Vec<Row> = sample.cards.iter().flat_map(|card| rows::of(card, users)).collect();
    rows::sort(&mut all, Sort::Memory, false);
    out.push('\n');
    if sample.blind {
        out.push_str(
            "This is another PID namespace (a container): whose the processes are is told on the machine itself.\n",
        );
    }
    for card in &sample.cards {
        if let Some(why) = card.processes.unreadable() {
            let why = rows::tame(&why.to_string());
            let _ = writeln!(out, "The processes of GPU {} could not be seen: {why}", card.gpu.index);
        }
    }
    if all.is_empty() {
        out.push_str("no process uses the card\n");
        return out;
    }
    let fitted = Columns::fitting(&all, columns);
    out.push_str(&fitted.head());
    out.push('\n');
    for row in &all {
        out.push_str(&fitted.line(row));
        out.push('\n');
    }
    out
}

/// A sample as JSON.
pub fn json(sample: &Sample) -> Value {
    let time = jiff::Timestamp::try_from(sample.time).unwrap_or_default();
    let mut all = json!({ "schema": SCHEMA, "time": time.to_string() });
    if let (Value::Object(all), Ok(Value::Object(fields))) = (&mut all, serde_json::to_value(sample)) {
        all.extend(fields);
    }
    all
}
