//! `thruway guard`: run once by systemd after the boot that a change waits for. Looks whether the network came back
//! and whether the plan came true, writes that down, and takes the change back where that was asked for.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use formats::netroute;
use journal::{Boot, Journal, Judged, Transaction, Verdict};
use machine::{Kind, Machine, MachineExt as _};
use model::{Guard, OutcomeState};
use serde::Serialize;

use crate::change::{progress_line, recover, rootly};
use crate::cli::{Global, GuardArgs, GuardWish};
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::way::Way;
use crate::{DONE, FOUND, plans, say};

/// The wish with the program that the unit starts.
pub fn wish(wish: GuardWish, program: Option<&Path>) -> anyhow::Result<Guard> {
    let program = match program {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let program = program.into_os_string().into_string();
    let Ok(program) = program else { bail!("this program lies at a path that is no UTF-8: systemd cannot start it") };
    Ok(Guard { program, undo: wish == GuardWish::Undo })
}

/// What was done about the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Then {
    Reported,
    TookBackAndBoots,
}

/// 0 all held (or nothing to judge), 1 something is not as planned.
pub fn guard(global: &Global, args: &GuardArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let path = target.path()?;
    let hands = target.hands()?;
    let mut journal = Journal::open(&path, hands.as_ref()).map_err(rootly)?.telling(&progress_line);
    if !args.dry_run {
        recover(&mut journal)?;
    }
    let transaction = match journal.guarded() {
        Boot::Nothing => return quiet(global, "No change waits for the boot guard."),
        Boot::StillBefore(number) => {
            return quiet(global, &format!("Change {number} waits for a boot, and there was none since."));
        }
        Boot::After(transaction) => transaction,
    };
    let (verdict, says) = judge(&target, &transaction, args);
    let undo = transaction.plan.asked.guard.as_ref().is_some_and(|guard| guard.undo);
    let then = if undo && verdict == Verdict::NetworkLost { Then::TookBackAndBoots } else { Then::Reported };
    if !args.dry_run {
        // First the verdict: whatever happens now, this change is judged once.
        journal.judge_boot(transaction.number, verdict, says.clone()).map_err(rootly)?;
    }
    show(global, &transaction, verdict, &says, then)?;
    if then == Then::TookBackAndBoots && !args.dry_run {
        journal.undo(transaction.number).map_err(rootly)?;
        say(&format!("Change {} is taken back; this machine boots once more.\n", transaction.number))?;
        journal.reboot()?;
    }
    Ok(if verdict == Verdict::Held { DONE } else { FOUND })
}

fn quiet(global: &Global, text: &str) -> anyhow::Result<u8> {
    if global.json {
        let report = serde_json::json!({ "schema": 1, "change": null, "says": text });
        say(&(report.to_string() + "\n"))?;
    } else {
        say(&format!("{text}\n"))?;
    }
    Ok(DONE)
}

/// The network first: without it nobody could come and look.
fn judge(target: &Target, transaction: &Transaction, args: &GuardArgs) -> (Verdict, Vec<String>) {
    let mut says = Vec::new();
    let gateway = transaction.plan.based_on.facts.get("host gateway");
    let mut lost = false;
    if let Some(before) = gateway {
        match wait_for_gateway(target.machine(), Duration::from_secs(args.wait)) {
            Ok((interface, gateway)) => says.push(format!("the gateway {gateway} answers by {interface}")),
            Err(why) => {
                lost = true;
                says.push(format!("the network did not come back in {} s: {why} (it was {before})", args.wait));
            }
        }
    }
    let outcomes = Way::observe(target.machine()).verify(&transaction.plan.layers, &transaction.plan.asked);
    let mut failed = false;
    for outcome in &outcomes {
        let state = match &outcome.state {
            OutcomeState::Held => "so".to_owned(),
            // After the boot nothing may still wait for a boot; a VM's start may well be waited for.
            OutcomeState::Pending(what) => {
                failed |= what.contains("reboot");
                format!("waits for {what}")
            }
            OutcomeState::Failed(why) => {
                failed = true;
                format!("not so: {why}")
            }
            OutcomeState::Unknown(why) => {
                failed = true;
                format!("not known: {why}")
            }
        };
        says.push(format!("{}: {state}", outcome.says));
    }
    let verdict = match (lost, failed) {
        (true, _) => Verdict::NetworkLost,
        (false, true) => Verdict::Failed,
        (false, false) => Verdict::Held,
    };
    (verdict, says)
}

/// The default route's gateway, once it has answered.
fn wait_for_gateway(machine: &dyn Machine, patience: Duration) -> Result<(String, Ipv4Addr), String> {
    let began = Instant::now();
    loop {
        let routes = machine.text("/proc/net/route").is().unwrap_or_default();
        let why = match netroute::default_route(&routes) {
            None => "there is no default route".to_owned(),
            Some((interface, gateway)) => {
                if machine.kind() == Kind::Live {
                    ask(gateway);
                }
                let neighbours = machine.text("/proc/net/arp").is().unwrap_or_default();
                if netroute::has_answered(&neighbours, gateway) {
                    return Ok((interface, gateway));
                }
                format!("the gateway {gateway} by {interface} does not answer")
            }
        };
        if began.elapsed() >= patience {
            return Err(why);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// An empty datagram to the discard port: the kernel must find the gateway's hardware address for it (ARP), which is
/// all that is asked. It may fail; the neighbour table tells.
fn ask(gateway: Ipv4Addr) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let _ = socket.and_then(|socket| socket.send_to(&[], (gateway, 9)));
    std::thread::sleep(Duration::from_millis(200));
}

fn words(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Held => ("everything that was planned is so", Tone::Good),
        Verdict::Failed => ("not everything that was planned is so", Tone::Bad),
        Verdict::NetworkLost => ("the network did not come back", Tone::Bad),
    }
}

fn show(global: &Global, of: &Transaction, verdict: Verdict, says: &[String], then: Then) -> anyhow::Result<()> {
    if global.json {
        let report = serde_json::json!({
            "schema": 1, "change": of.number, "verdict": verdict, "says": says, "then": then,
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    let mut page = Page::new();
    let layers = plans::layer_names(&of.plan.layers);
    page.line(paint(Tone::Strong, &format!("Boot guard: change {} ({layers})", of.number)));
    let (text, tone) = words(verdict);
    page.line(format!("  {}", paint(tone, text)));
    for line in says {
        page.hang(2, "-", 2, Tone::Plain, line);
    }
    if then == Then::Reported && verdict != Verdict::Held {
        page.line(format!("  Take it back with: {}", paint(Tone::Code, &format!("thruway undo {}", of.number))));
    }
    say(&page.text())
}

/// A verdict of the log.
pub fn lines(page: &mut Page, indent: usize, judged: &Judged, verbose: bool) {
    let (text, tone) = words(judged.verdict);
    page.hang(indent, "guard", 7, tone, &format!("{}: {text}", journal::utc(judged.at)));
    if verbose || judged.verdict != Verdict::Held {
        for line in &judged.says {
            page.hang(indent + 7, "-", 2, Tone::Faint, line);
        }
    }
}
