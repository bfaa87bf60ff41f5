//! `thruway host audit`: what weakens this host's isolation, and what old guides left on it. The same findings as the
//! doctor's, for the reader who asks for these two alone.

use model::{Finding, Layer, Verdict};

use crate::cli::Global;
use crate::doctor::trouble_lines;
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::way::Way;
use crate::{BLIND, DONE, FOUND, say};

const SCHEMA: u32 = 1;

/// (heading, checks)
const PARTS: [(&str, &[&str]); 2] = [
    (
        "Security: what keeps a VM with a device in its bounds",
        &[
            "host/intremap-missing",
            "host/unsafe-interrupts-needless",
            "host/acs-override",
            "host/noiommu",
            "host/rmrr-relaxed",
        ],
    ),
    (
        "Leftovers of old guides",
        &[
            "host/cruft",
            "host/virqfd-gone",
            "host/edit-without-effect",
            "host/blacklist-kills-host-gpu",
            "host/sysfb-blacklist-ineffective",
            "host/vfio-grabbed",
            "host/module-list-unread",
        ],
    ),
];

/// 0 nothing found, 1 findings, 2 nothing found and something could not be looked at.
pub fn audit(global: &Global) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let findings = Way::observe(machine).findings(Layer::Host);
    let parts = PARTS.map(|(title, ids)| {
        let own: Vec<&Finding> = ids.iter().filter_map(|id| findings.iter().find(|f| f.about.id.0 == *id)).collect();
        (title, own)
    });
    let all = || parts.iter().flat_map(|(_, own)| own);
    let found = all().any(|finding| matches!(finding.verdict, Verdict::Warn(_) | Verdict::Fail(_)));
    let blind = all().any(|finding| matches!(finding.verdict, Verdict::Unknown { .. }));
    if global.json {
        let [(_, security), (_, leftovers)] = &parts;
        let report = serde_json::json!({
            "schema": SCHEMA, "machine": target.name(global), "simulated": machine.kind() == machine::Kind::Simulated,
            "security": security, "leftovers": leftovers,
        });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        let mut page = Page::new();
        let simulated = if machine.kind() == machine::Kind::Simulated { "  (simulated)" } else { "" };
        let title = format!("Audit of {}", target.name(global));
        page.line(format!("{}{}", paint(Tone::Strong, &title), paint(Tone::Warn, simulated)));
        for (title, own) in &parts {
            part(&mut page, title, own);
        }
        let cruft = parts[1].1.iter().any(|finding| matches!(finding.verdict, Verdict::Warn(_) | Verdict::Fail(_)));
        if cruft {
            page.gap();
            let paste = paint(Tone::Code, "thruway host plan --clean");
            page.line(format!("{paste} shows which of these thruway would take away; thruway undo puts them back."));
        }
        say(&page.text())?;
    }
    Ok(match (found, blind) {
        (true, _) => FOUND,
        (false, true) => BLIND,
        (false, false) => DONE,
    })
}

fn part(page: &mut Page, title: &str, findings: &[&Finding]) {
    page.gap();
    page.line(paint(Tone::Strong, title));
    for finding in findings {
        match &finding.verdict {
            Verdict::Fail(trouble) => trouble_lines(page, "✗", Tone::Bad, finding, trouble),
            Verdict::Warn(trouble) => trouble_lines(page, "!", Tone::Warn, finding, trouble),
            Verdict::Unknown { reason, what } => {
                page.hang(0, "?", 2, Tone::Warn, &format!("{}: {what}: {reason}", finding.about.id));
            }
            Verdict::Pass => page.hang(0, "●", 2, Tone::Good, finding.about.title),
            Verdict::NotApplicable => {}
        }
    }
    if findings.iter().all(|finding| finding.verdict == Verdict::NotApplicable) {
        page.hang(0, "", 2, Tone::Faint, "nothing here that these checks speak of");
    }
}
