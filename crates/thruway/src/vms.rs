//! `thruway vm list` and `thruway vm check VM`.

use anyhow::bail;
use model::{Finding, Reason, Seen, Trouble, Verdict};
use serde_json::{Value, json};
use vm::{Ended, LastStart, Running, Vm, VmKind};

use crate::cli::Global;
use crate::doctor::trouble_lines;
use crate::paint::{Page, Tone, paint, plural};
use crate::target::Target;
use crate::way::Way;
use crate::{BLIND, DONE, FOUND, explain_log, say};

/// The version of both reports' JSON forms.
const SCHEMA: u32 = 1;

fn kind(vm: &Vm) -> &'static str {
    match vm.kind {
        VmKind::Proxmox => "Proxmox VE",
        VmKind::Libvirt => "libvirt",
    }
}

/// The API says that a VM runs, and no more.
fn runs_by_api(reason: &Reason) -> bool {
    matches!(reason, Reason::Other(says) if says == pve::RUNS)
}

fn state(vm: &Vm) -> (String, Tone) {
    match &vm.running {
        Running::Yes { pid, .. } => (format!("runs (pid {pid})"), Tone::Good),
        Running::No if vm.template => ("template".into(), Tone::Faint),
        Running::No => ("stopped".into(), Tone::Faint),
        Running::Unknown(reason) if runs_by_api(reason) => ("runs".into(), Tone::Good),
        Running::Unknown(reason) => (format!("not seen: {reason}"), Tone::Warn),
    }
}

/// What a VM is given, cards by name, other functions by address.
fn cards(facts: &vm::Facts, vm: &Vm) -> Vec<String> {
    let cards = facts.cards_of(vm);
    let mut names: Vec<String> =
        cards.iter().map(|card| format!("{} ({})", card.identity.bdf.short(), card.short_name())).collect();
    let others = vm
        .given
        .iter()
        .filter(|given| !given.functions.iter().any(|bdf| cards.iter().any(|card| card.identity.bdf.same_slot(bdf))));
    names.extend(others.map(|given| format!("{}: {}", given.key, given.text)));
    names
}

fn machine(vm: &Vm) -> String {
    // i440fx and SeaBIOS are what Proxmox VE takes where the file says nothing.
    let machine = vm.machine.as_ref().map_or("i440fx", |machine| machine.value.as_str());
    format!("{machine}, {}", if vm.uefi { "UEFI" } else { "SeaBIOS" })
}

/// 0 listed, 2 where definitions could not be read.
pub fn list(global: &Global) -> anyhow::Result<u8> {
    let target = Target::of_vms(global, None)?;
    let way = Way::observe(target.machine());
    let facts = way.vms();
    let blind = !facts.unread.is_empty() || facts.pve.unreadable().is_some() || facts.libvirt.unreadable().is_some();
    let status = if blind { BLIND } else { DONE };
    if global.json {
        let report = json!({
            "schema": SCHEMA,
            "machine": target.name(global),
            "simulated": target.machine().kind() == machine::Kind::Simulated,
            "vms": facts.vms.iter().map(|vm| row(facts, vm)).collect::<Vec<_>>(),
            "loose": facts.loose.iter().map(|(pid, args)| json!({
                "pid": pid,
                "name": args.name,
                "machine": args.machine,
                "gives": args.vfio.iter().filter_map(|device| device.host).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "unread": facts.unread.iter().map(|(source, reason)| json!({"source": source, "reason": reason})).collect::<Vec<_>>(),
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    let simulated = if target.machine().kind() == machine::Kind::Simulated { "  (simulated)" } else { "" };
    let mut page = Page::new();
    page.line(format!(
        "{}{}",
        paint(Tone::Strong, &format!("VMs on {}", target.name(global))),
        paint(Tone::Warn, simulated)
    ));
    if facts.vms.is_empty() && facts.loose.is_empty() && !blind {
        page.gap();
        page.line("  No VM is defined here and no QEMU runs.");
    }
    for vm in &facts.vms {
        page.gap();
        let (state, tone) = state(vm);
        let name = if vm.name == vm.id { String::new() } else { format!("  {}", vm.name) };
        page.line(format!("  {}{}  {}", paint(Tone::Strong, &vm.id), paint(Tone::Plain, &name), paint(tone, &state)));
        let given = cards(facts, vm);
        page.hang(4, "card", 11, Tone::Plain, &if given.is_empty() { "none".to_owned() } else { given.join("; ") });
        page.hang(4, "machine", 11, Tone::Plain, &machine(vm));
        let onboot = vm.onboot.as_ref().is_some_and(|onboot| onboot.value);
        page.hang(4, "autostart", 11, Tone::Plain, if onboot { "starts with the host" } else { "no" });
        page.whole(4, "defined", 11, Tone::Faint, &format!("{} ({})", vm.path, kind(vm)));
    }
    for (pid, args) in &facts.loose {
        page.gap();
        let name = args.name.as_deref().unwrap_or("QEMU");
        page.line(format!(
            "  {}  {}",
            paint(Tone::Strong, name),
            paint(Tone::Good, &format!("runs (pid {pid}), started by hand"))
        ));
        let hosts: Vec<String> = args.vfio.iter().filter_map(|device| device.host).map(|bdf| bdf.short()).collect();
        page.hang(4, "card", 11, Tone::Plain, &if hosts.is_empty() { "none".to_owned() } else { hosts.join(", ") });
        page.hang(4, "machine", 11, Tone::Plain, args.machine.as_deref().unwrap_or("QEMU's default"));
    }
    for (source, reason) in &facts.unread {
        page.gap();
        page.hang(0, "?", 2, Tone::Warn, &format!("{source}: {reason}"));
    }
    for (place, seen) in [("/etc/pve", facts.pve.unreadable()), ("/etc/libvirt/qemu", facts.libvirt.unreadable())] {
        if let Some(reason) = seen {
            page.gap();
            page.hang(0, "?", 2, Tone::Warn, &format!("{place}: {reason}"));
        }
    }
    say(&page.text())?;
    Ok(status)
}

fn row(facts: &vm::Facts, vm: &Vm) -> Value {
    let (running, pid) = match &vm.running {
        Running::Yes { pid, .. } => (json!(true), json!(pid)),
        Running::No => (json!(false), Value::Null),
        Running::Unknown(reason) => (if runs_by_api(reason) { json!(true) } else { Value::Null }, Value::Null),
    };
    json!({
        "id": vm.id,
        "name": vm.name,
        "kind": vm.kind,
        "defined": vm.path,
        "running": running,
        "pid": pid,
        "template": vm.template,
        "cards": facts.cards_of(vm).iter().map(|card| json!({
            "bdf": card.identity.bdf, "name": card.short_name(),
        })).collect::<Vec<_>>(),
        "given": vm.given,
        "autostart": vm.onboot.as_ref().is_some_and(|onboot| onboot.value),
        "machine": vm.machine.as_ref().map(|machine| &machine.value),
        "q35": vm.q35,
        "uefi": vm.uefi,
        "lock": vm.lock.as_ref().map(|lock| &lock.value),
    })
}

/// 0 nothing stands in the way of a start, 1 something does or the last start failed, 2 could not look.
pub fn check(global: &Global, name: &str) -> anyhow::Result<u8> {
    let target = Target::of_vms(global, Some(name))?;
    let machine = target.machine();
    let way = Way::observe(machine);
    let facts = way.vms();
    let wanted = name.strip_prefix("vm:").unwrap_or(name);
    let Some(vm) = facts.vm(wanted) else {
        let known: Vec<&str> = facts.vms.iter().map(|vm| vm.id.as_str()).collect();
        match (known.is_empty(), facts.unread.first()) {
            (_, Some((source, reason))) => {
                bail!("there is no VM {wanted} among those that could be read ({source}: {reason})")
            }
            (true, _) => bail!("there is no VM {wanted}: this machine defines none"),
            (false, _) => bail!("there is no VM {wanted}; `thruway vm list` shows them: {}", known.join(", ")),
        }
    };
    let findings = way.before_start(vm);
    let start = vm::last_start(machine, vm)?;
    let any = |test: fn(&Verdict) -> bool| findings.iter().any(|finding| test(&finding.verdict));
    // What is past is past where the VM runs.
    let failed = !vm.is_running() && matches!(&start, Seen::Is(LastStart { ended: Ended::Failed(_), .. }));
    let status = if failed || any(|verdict| matches!(verdict, Verdict::Fail(_) | Verdict::Warn(_))) {
        FOUND
    } else if any(|verdict| matches!(verdict, Verdict::Unknown { .. })) {
        BLIND
    } else {
        DONE
    };
    if global.json {
        let verdict = ["well", "findings", "unknown"].get(usize::from(status)).copied().unwrap_or_default();
        let report = json!({
            "schema": SCHEMA,
            "machine": target.name(global),
            "simulated": machine.kind() == machine::Kind::Simulated,
            "vm": row(facts, vm),
            "verdict": verdict,
            "findings": findings,
            "last_start": start,
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    let simulated = if machine.kind() == machine::Kind::Simulated { "  (simulated)" } else { "" };
    let mut page = Page::new();
    let head = format!("{} on {}, before its start", vm.title(), target.name(global));
    page.line(format!("{}{}", paint(Tone::Strong, &head), paint(Tone::Warn, simulated)));
    page.gap();
    let given = cards(facts, vm);
    page.hang(
        2,
        "card",
        9,
        Tone::Plain,
        &if given.is_empty() { "none is given to it".to_owned() } else { given.join("; ") },
    );
    page.hang(2, "state", 9, Tone::Plain, &state(vm).0);
    findings_lines(&mut page, &findings, global.verbose);
    if failed && let Seen::Is(start) = &start {
        start_lines(&mut page, start);
    }
    if let Seen::Unreadable(reason) = &start {
        page.gap();
        page.hang(0, "?", 2, Tone::Warn, &format!("the log of its last start: {reason}"));
    }
    page.gap();
    let says = match status {
        DONE if given.is_empty() => "It has no card, so nothing of a card stands in its way.",
        DONE => "Nothing that thruway knows stands in the way of its start.",
        FOUND => "`thruway vm plan` shows what thruway would change; `thruway explain ID` says more.",
        _ if machine.kind() == machine::Kind::Remote => {
            "Nothing wrong was seen, but the API does not tell everything: `thruway vm check` on the node looks at the rest."
        }
        _ => "Nothing wrong was seen, but not everything could be looked at: try as root.",
    };
    page.hang(0, "", 0, if status == DONE { Tone::Good } else { Tone::Warn }, says);
    say(&page.text())?;
    Ok(status)
}

fn findings_lines(page: &mut Page, findings: &[Finding], verbose: bool) {
    let mut show = |mark: &str, tone: Tone, of: fn(&Verdict) -> Option<&Trouble>| {
        for finding in findings {
            if let Some(trouble) = of(&finding.verdict) {
                trouble_lines(page, mark, tone, finding, trouble);
            }
        }
    };
    show("✗", Tone::Bad, |verdict| if let Verdict::Fail(trouble) = verdict { Some(trouble) } else { None });
    show("!", Tone::Warn, |verdict| if let Verdict::Warn(trouble) = verdict { Some(trouble) } else { None });
    // what hides from many checks at once is said once
    let mut hidden: Vec<(String, Vec<&str>)> = Vec::new();
    for finding in findings {
        if let Verdict::Unknown { reason, what } = &finding.verdict {
            let why = format!("{what}: {reason}");
            match hidden.iter_mut().find(|(known, _)| *known == why) {
                Some((_, ids)) => ids.push(finding.about.id.0),
                None => hidden.push((why, vec![finding.about.id.0])),
            }
        }
    }
    for (why, ids) in hidden {
        page.gap();
        page.hang(0, "?", 2, Tone::Warn, &format!("{}: {why}", ids.join(", ")));
    }
    let passed: Vec<&Finding> = findings.iter().filter(|finding| finding.verdict == Verdict::Pass).collect();
    page.gap();
    if verbose {
        page.line(paint(Tone::Strong, "Checked and well"));
        for finding in passed {
            page.hang(2, finding.about.id.0, 36, Tone::Plain, finding.about.title);
        }
    } else {
        page.hang(
            0,
            "",
            0,
            Tone::Faint,
            &format!("{} and well (--verbose names them)", plural(passed.len(), "check passed", "checks passed")),
        );
    }
}

fn start_lines(page: &mut Page, start: &LastStart) {
    page.gap();
    let at = start.at.map(|at| format!(" of {}", journal::utc(at))).unwrap_or_default();
    page.line(paint(Tone::Strong, &format!("The last start{at} failed")));
    if let Ended::Failed(says) = &start.ended {
        page.hang(2, "", 0, Tone::Plain, &format!("{}: {says}", start.log));
    }
    for (log, found) in &start.explained {
        explain_log::lines_of(page, log, found);
    }
    if start.explained.iter().all(|(_, found)| found.is_empty()) {
        page.hang(2, "?", 2, Tone::Warn, "its log holds no error that thruway knows");
    }
    for (log, reason) in &start.unread {
        page.hang(2, "?", 2, Tone::Warn, &format!("{log}: {reason}"));
    }
}
