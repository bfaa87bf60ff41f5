//! Plans on paper: each change as a diff with its reason, risk, moment and way back.

use machine::Machine;
use model::{Change, Content, Effective, Hold, KubeVerb, Layer, Op, Outcome, OutcomeState, Plan, Risk, Undo};
use similar::TextDiff;
use up::quote;

use crate::paint::{Page, Tone, paint, plural};

pub fn page(plan: &Plan, machine: &dyn Machine, name: &str, simulated: bool, verbose: bool) -> String {
    let mut page = Page::new();
    let mark = if simulated { "  (simulated)" } else { "" };
    page.line(format!("{}{}", paint(Tone::Strong, &format!("Plan for {name}")), paint(Tone::Warn, mark)));
    page.gap();
    for intent in &plan.intent {
        page.hang(2, "", 0, Tone::Plain, intent);
    }
    page.gap();
    for refusal in &plan.refusals {
        page.hang(0, "✗", 2, Tone::Bad, &format!("Refused: {}", refusal.says));
        page.whole(2, "", 0, Tone::Faint, &refusal.because);
        // Its first line is words; what follows is to be pasted as it stands.
        let mut lines = refusal.instead.lines();
        page.hang(4, "way out", 9, Tone::Plain, lines.next().unwrap_or_default());
        for line in lines {
            page.whole(13, "", 0, Tone::Code, line);
        }
        page.gap();
    }
    if plan.changes.is_empty() && plan.refusals.is_empty() {
        page.line("Nothing to change.");
    }
    for (n, change) in plan.changes.iter().enumerate() {
        change_lines(&mut page, n + 1, change, machine, verbose);
    }
    notes(&mut page, plan);
    if !plan.changes.is_empty() {
        summary(&mut page, plan);
    }
    page.text()
}

fn notes(page: &mut Page, plan: &Plan) {
    if plan.notes.is_empty() {
        return;
    }
    page.gap();
    page.line(paint(Tone::Strong, "To know"));
    for note in &plan.notes {
        page.hang(2, "-", 2, Tone::Plain, note);
    }
}

fn summary(page: &mut Page, plan: &Plan) {
    page.gap();
    let waits = |when| plan.changes.iter().filter(|change| change.effective == when).count();
    let mut says = plural(plan.changes.len(), "change", "changes");
    for (when, words) in [
        (Effective::NextBoot, "at the next boot"),
        (Effective::NextVmStart, "at the VM's next start"),
        (Effective::NextContainer, "for new containers"),
    ] {
        match waits(when) {
            0 => {}
            count => says.push_str(&format!(", {count} effective {words}")),
        }
    }
    let back = match plan.changes.iter().map(|change| change.undo).max_by_key(|undo| *undo as u8) {
        Some(Undo::Irreversible) => "NOT all of it can be taken back",
        _ => "all of it can be taken back with thruway undo",
    };
    page.line(format!("{says}; {back}."));
}

fn change_lines(page: &mut Page, number: usize, change: &Change, machine: &dyn Machine, verbose: bool) {
    page.gap();
    let floor = format!("{:<11}", change.layer.name());
    page.line(format!("{number:>2}  {}{}", paint(Tone::Faint, &floor), paint(Tone::Strong, &change.title)));
    let mut terms = vec![when(change.effective).to_owned(), undo(change.undo).to_owned()];
    if !change.because.is_empty() {
        terms.push(format!("because {}", change.because.join(", ")));
    }
    page.hang(4, "", 0, Tone::Faint, &terms.join(" · "));
    for risk in &change.risk {
        page.hang(4, "risk", 6, Tone::Warn, &risk_words(risk));
    }
    match &change.op {
        Op::WriteFile { path, content, mode } => file_lines(page, path, content, *mode, machine, verbose),
        Op::Link { path, target } => page.whole(4, "", 0, Tone::Code, &format!("ln -s {target} {path}")),
        Op::RemoveFile { path } => page.whole(4, "", 0, Tone::Code, &format!("remove {path}")),
        Op::Sysfs { path, value, .. } => page.whole(4, "", 0, Tone::Code, &format!("echo {value} > {path}")),
        Op::Service { unit, verb } => page.whole(4, "", 0, Tone::Code, &format!("systemctl {} {unit}", verb.word())),
        Op::Regenerate(tool) => page.whole(4, "", 0, Tone::Code, &tool.argv().join(" ")),
        Op::Packages(op) => {
            for command in op.paste() {
                page.whole(4, "", 0, Tone::Code, &command);
            }
        }
        Op::KernelArgs { by, add, remove } => {
            for command in by.paste(add, remove) {
                page.whole(4, "", 0, Tone::Code, &command);
            }
        }
        Op::Proxmox { vmid, set, delete, .. } => {
            for (key, value) in set {
                page.whole(4, "", 0, Tone::Code, &format!("qm set {vmid} --{key} {}", quote(value)));
            }
            if !delete.is_empty() {
                page.whole(4, "", 0, Tone::Code, &format!("qm set {vmid} --delete {}", delete.join(",")));
            }
        }
        Op::ProxmoxMapping { id, map } => {
            let maps: Vec<String> = map.iter().map(|map| format!("--map {}", quote(map))).collect();
            page.whole(
                4,
                "",
                0,
                Tone::Code,
                &format!("pvesh create /cluster/mapping/pci --id {id} {}", maps.join(" ")),
            );
        }
        Op::Jellyfin(op) => {
            page.whole(4, "", 0, Tone::Code, &format!("POST {}/System/Configuration/encoding", op.url));
            for (key, value) in &op.set {
                let old = op.before.get(key).unwrap_or(&serde_json::Value::Null);
                page.whole(4, "", 0, Tone::Bad, &format!("- {key}: {old}"));
                page.whole(4, "", 0, Tone::Good, &format!("+ {key}: {value}"));
            }
        }
        Op::Bind(op) => {
            let hold = |hold: &Hold| match &hold.forced {
                Some(name) => format!("{} (driver_override {name})", hold.driver),
                None => hold.driver.to_string(),
            };
            let line = format!("{} [{}]: {} → {}", op.bdf, op.id, hold(&op.from), hold(&op.to));
            page.whole(4, "", 0, Tone::Code, &line);
        }
        Op::RunFile(op) => {
            page.whole(4, "", 0, Tone::Code, &op.argv().join(" "));
            page.whole(4, "", 0, Tone::Faint, &format!("sha256 {}; its own sums hold", op.file.sha256));
        }
        Op::Mig(op) => {
            let line = format!("{}: {} → {}", op.bdf, gpu::mig::says(&op.from), gpu::mig::says(&op.to));
            page.whole(4, "", 0, Tone::Code, &line);
        }
        Op::EndProcess { pid, name, .. } => page.whole(4, "", 0, Tone::Code, &format!("kill -TERM {pid}  ({name})")),
        Op::Kube(op) => {
            let verb = match op.verb {
                KubeVerb::Apply => "apply",
                KubeVerb::Label => "label",
                KubeVerb::Delete => "delete",
            };
            let place = if op.namespace.is_empty() { String::new() } else { format!("{}/", op.namespace) };
            page.whole(4, "", 0, Tone::Code, &format!("{verb} {} {place}{}", op.kind, op.name));
            page.diff(6, &op.preview);
        }
    }
}

fn file_lines(page: &mut Page, path: &str, content: &Content, mode: u32, machine: &dyn Machine, verbose: bool) {
    let new = content.to_bytes().unwrap_or_default();
    let old = machine.read(path);
    let head = match &old {
        model::Seen::Is(_) => path.to_owned(),
        _ => format!("{path}  (new, mode {mode:04o})"),
    };
    page.whole(4, "", 0, Tone::Code, &head);
    let old = old.is().unwrap_or_default();
    let (Ok(old), Ok(new)) = (std::str::from_utf8(&old), std::str::from_utf8(&new)) else {
        page.whole(6, "", 0, Tone::Faint, &format!("{} bytes, not text", new.len()));
        return;
    };
    let diff = TextDiff::from_lines(old, new);
    let text = diff.unified_diff().context_radius(2).to_string();
    const SHOWN: usize = 40;
    let lines = text.lines().count();
    if verbose || lines <= SHOWN {
        page.diff(6, &text);
    } else {
        page.diff(6, &text.lines().take(SHOWN).collect::<Vec<_>>().join("\n"));
        page.whole(6, "", 0, Tone::Faint, &format!("… {} more lines; --verbose shows them", lines - SHOWN));
    }
}

fn when(effective: Effective) -> &'static str {
    match effective {
        Effective::Now => "effective now",
        Effective::NextBoot => "effective at the next boot",
        Effective::NextVmStart => "effective at the VM's next start",
        Effective::NextContainer => "effective for new containers",
    }
}

fn undo(undo: Undo) -> &'static str {
    match undo {
        Undo::Exact => "undo: exact",
        Undo::Inverse => "undo: by the opposite operation",
        Undo::Left => "undo: left as it is",
        Undo::Irreversible => "undo: NOT POSSIBLE",
    }
}

fn risk_words(risk: &Risk) -> String {
    match risk {
        Risk::Reboot => "needs a reboot of this machine".into(),
        Risk::Outage(what) => format!("outage: {what}"),
        Risk::Security(what) => format!("security: {what}"),
        Risk::DataLoss(what) => format!("data loss: {what}"),
    }
}

/// The outcomes of what was promised, one line each.
pub fn outcome_lines(page: &mut Page, outcomes: &[Outcome]) {
    for outcome in outcomes {
        let (mark, tone, why) = match &outcome.state {
            OutcomeState::Held => ("●", Tone::Good, None),
            OutcomeState::Pending(why) => ("…", Tone::Warn, Some(format!("pending: waits for {why}"))),
            OutcomeState::Failed(why) => ("✗", Tone::Bad, Some(why.clone())),
            OutcomeState::Unknown(why) => ("?", Tone::Warn, Some(format!("could not look: {why}"))),
        };
        page.line(format!("  {} {}", paint(tone, mark), paint(Tone::Plain, &outcome.says)));
        if let Some(why) = why {
            page.hang(6, "", 0, tone, &why);
        }
        for evidence in &outcome.evidence {
            page.hang(6, "seen", 6, Tone::Faint, &format!("{}: {}", evidence.source, evidence.value));
        }
    }
}

pub fn layer_names(layers: &[Layer]) -> String {
    if layers.is_empty() {
        return "ledger".into();
    }
    layers.iter().map(|layer| layer.name()).collect::<Vec<_>>().join(", ")
}
